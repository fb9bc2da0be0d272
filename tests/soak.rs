//! Every parser of what comes from outside, against generated input: half garbage, half valid text with damage.
//!
//! `ARVADOS_SOAK_ITERATIONS` is the number of inputs for each parser: small in `make test`, large in `make soak`. The seed
//! is printed, and `ARVADOS_SOAK_SEED` repeats a run. `fuzz/` has the same checks, guided by coverage. A parser is added
//! with one line in [`PARSERS`] and a check in `soak/`; a check panics when a promise is broken.

#[path = "soak/keep.rs"]
mod keep;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::time::{Duration, Instant};

/// A parser's name, the check of one input, and texts to start from.
struct Parser {
    name: &'static str,
    check: fn(&[u8]),
    seeds: &'static [&'static str],
}

const PARSERS: &[Parser] = &[
    Parser { name: "manifest", check: keep::manifest, seeds: keep::MANIFESTS },
    Parser { name: "locator", check: keep::locator, seeds: keep::LOCATORS },
    Parser { name: "portable data hash", check: keep::portable_data_hash, seeds: keep::PORTABLE_DATA_HASHES },
    Parser { name: "replace_files", check: keep::replace_files, seeds: keep::MANIFESTS },
];

/// Tokens that matter to one parser or another: damage is done with these as often as with bytes.
const PIECES: &[&str] = &[
    " ",
    "  ",
    "\n",
    ":",
    "+",
    "/",
    "//",
    ".",
    "..",
    "./",
    "\\056",
    "\\040",
    "\\000",
    "\\377",
    "\\400",
    "\\\\",
    "0:0:.",
    "0:0:\\056",
    "0:3:x",
    "18446744073709551615",
    "9223372036854775807",
    "67108864",
    "4294967296",
    "-1",
    "+A",
    "+Kzzzzz",
    "@",
    "é",
    "\u{0}",
    "\r",
    "\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    "null",
    "true",
    "1e999",
    "acbd18db4cc2f85cedef654fccc4a4d8+3",
    "d41d8cd98f00b204e9800998ecf8427e+0",
    " 0:0:a/b/c",
    " . ",
    "\n. ",
    "~file~",
];

#[test]
fn no_parser_panics_hangs_or_breaks_its_promise() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let iterations = number("ARVADOS_SOAK_ITERATIONS").unwrap_or(20_000);
    let seed = number("ARVADOS_SOAK_SEED").unwrap_or_else(rand::random);
    println!("ARVADOS_SOAK_SEED={seed}");
    for parser in PARSERS {
        let mut random = SmallRng::seed_from_u64(seed);
        let began = Instant::now();
        for iteration in 0..iterations {
            let input = generate(&mut random, parser.seeds);
            let input_began = Instant::now();
            let outcome = std::panic::catch_unwind(|| (parser.check)(&input));
            if outcome.is_err() || input_began.elapsed() > Duration::from_secs(5) {
                let text = String::from_utf8_lossy(&input);
                panic!("{}: input {iteration} of seed {seed} fails or takes too long: {text:?}", parser.name);
            }
        }
        println!("{}: {iterations} inputs in {:.1} s", parser.name, began.elapsed().as_secs_f64());
    }
}

/// A text of a parser's language with zero to eight damages, or now and then nothing but pieces.
fn generate(random: &mut SmallRng, seeds: &[&str]) -> Vec<u8> {
    let mut input = match random.random_ratio(1, 8) {
        true => Vec::new(),
        false => seeds[random.random_range(0..seeds.len())].as_bytes().to_vec(),
    };
    for _ in 0..random.random_range(0..=8) {
        let position = random.random_range(0..=input.len());
        let end = random.random_range(position..=input.len().min(position + 16));
        let piece = PIECES[random.random_range(0..PIECES.len())].as_bytes();
        match random.random_range(0..6) {
            0 => drop(input.splice(position..position, piece.iter().copied())),
            1 => drop(input.splice(position..end, piece.iter().copied())),
            2 => drop(input.drain(position..end)),
            3 => {
                let copied = input[position..end].to_vec();
                let target = random.random_range(0..=input.len());
                drop(input.splice(target..target, copied));
            }
            4 => input.insert(position, random.random()),
            _ => {
                let other = seeds[random.random_range(0..seeds.len())].as_bytes();
                drop(input.splice(position.., other[other.len().min(position)..].iter().copied()));
            }
        }
    }
    input
}
