//! What the benchmarks of the mount share: data, and the form of a line.

#![allow(dead_code, reason = "each benchmark uses its part")]

use std::time::Duration;

/// Empty files only: listing never asks for blocks.
pub fn manifest(folders: usize, files: usize) -> String {
    let mut text = String::new();
    for folder in 0..folders {
        text += &format!("./d{folder} d41d8cd98f00b204e9800998ecf8427e+0");
        for file in 0..files {
            text += &format!(" 0:0:f{file:06}");
        }
        text.push('\n');
    }
    text
}

/// Bytes that do not repeat (xorshift64), different in each call.
pub fn noise(length: usize) -> Vec<u8> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static SEED: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);
    let mut state = SEED.fetch_add(0x1234_5678_9abc_def1, Ordering::Relaxed) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The middle one, in seconds.
pub fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

/// The head of the table.
pub fn heading() {
    println!("{:44} {:>10} {:>10} {:>10} {:>12} {:>10}", "", "ours", "arv-mount", "bound", "× arv-mount", "of bound");
}

/// One line of it, from the medians.
pub fn report(name: &str, ours: Vec<Duration>, theirs: Vec<Duration>, bound: Vec<Duration>) {
    let (ours, theirs, bound) = (median(ours), median(theirs), median(bound));
    let (faster, part) = (theirs / ours, bound / ours);
    println!("{name:44} {ours:>9.2}s {theirs:>9.2}s {bound:>9.2}s {faster:>11.1}× {part:>10.2}");
}
