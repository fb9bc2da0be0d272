//! Reading a manifest of a million files and looking things up in the tree, and the memory that a file takes.
//!
//! Two shapes, because they stress different parts: one directory with all the files (one line of 50 MB, one binary search
//! over a million names), and ten thousand directories of a hundred files (names interned, a line each). And what a commit costs
//! beside the server, next to its bound: one MD5 pass over the text.

use arvados::keep::manifest::Form;
use arvados::keep::{BlockHash, Locator, PortableDataHash};
use arvados::tree::commit::{Depth, GoText, Touched, edits};
use arvados::tree::{NodeId, Snapshot};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::fmt::Write;
use std::hint::black_box;

const FILES: usize = 1_000_000;

/// Files of 4 KiB, packed into blocks of 64 MiB as `arv-put` does, with signatures as a server gives them out.
struct Shape {
    name: &'static str,
    text: String,
    /// Paths of files spread over the tree.
    probes: Vec<String>,
}

fn shape(name: &'static str, directories: usize) -> Shape {
    const FILE: usize = 4096;
    const PER_BLOCK: usize = (1 << 26) / FILE;
    let per_directory = FILES / directories;
    let mut text = String::new();
    for directory in 0..directories {
        match directories {
            1 => text.push('.'),
            _ => write!(text, "./run{:03}/sample{:03}", directory / 100, directory % 100).unwrap(),
        }
        let (first, end) = (directory * per_directory, (directory + 1) * per_directory);
        for block in first / PER_BLOCK..=(end - 1) / PER_BLOCK {
            let hash = BlockHash::of(&block.to_le_bytes());
            write!(text, " {hash}+67108864+A{hash}01234567@6b49d200").unwrap();
        }
        for file in first..end {
            let position = (file - first / PER_BLOCK * PER_BLOCK) * FILE;
            write!(text, " {position}:{FILE}:{}", file_name(file, per_directory)).unwrap();
        }
        text.push('\n');
    }
    let probes = (0..1000).map(|probe| probe * (FILES / 1000)).map(|file| {
        let directory = file / per_directory;
        match directories {
            1 => file_name(file, per_directory),
            _ => format!("run{:03}/sample{:03}/{}", directory / 100, directory % 100, file_name(file, per_directory)),
        }
    });
    Shape { name, probes: probes.collect(), text }
}

fn file_name(file: usize, per_directory: usize) -> String {
    format!("frame-{:07}.tiff", file % per_directory)
}

fn bench(criterion: &mut Criterion) {
    for shape in [shape("flat", 1), shape("nested", 10_000)] {
        let tree = Snapshot::parse(&shape.text).unwrap();
        println!(
            "{}: {} MB of text, {:.1} bytes of memory per file",
            shape.name,
            shape.text.len() / 1_000_000,
            tree.memory_bytes() as f64 / FILES as f64
        );
        let mut group = criterion.benchmark_group(format!("tree/{}", shape.name));
        group.sample_size(10);
        group.throughput(Throughput::Elements(FILES as u64));
        group.bench_function("parse a million files", |bencher| {
            bencher.iter_batched(|| (), |()| Snapshot::parse(&shape.text).unwrap(), BatchSize::PerIteration);
        });
        group.bench_function("portable data hash", |bencher| {
            bencher.iter(|| PortableDataHash::of_manifest(&shape.text));
        });
        group.bench_function("write", |bencher| bencher.iter(|| tree.to_manifest(Form::Python)));
        group.bench_function("list everything", |bencher| bencher.iter(|| walk(&tree)));
        group.throughput(Throughput::Elements(shape.probes.len() as u64));
        group.bench_function("look up a thousand paths", |bencher| {
            bencher.iter(|| shape.probes.iter().filter(|path| tree.find(path.as_bytes()).is_some()).count());
        });
        let files: Vec<_> = shape.probes.iter().map(|path| tree.find(path.as_bytes()).unwrap()).collect();
        group.bench_function("find the block of a thousand files", |bencher| {
            bencher.iter(|| files.iter().map(|&file| tree.segments(file, 1000, 1).count()).sum::<usize>());
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function("add one file", |bencher| bencher.iter(|| add(&tree)));
        group.finish();
    }
}

/// One file more in a collection of 100,000 in a thousand directories: what a commit costs beside the server.
fn bench_commit(criterion: &mut Criterion) {
    let mut text = String::new();
    for directory in 0..1000 {
        let hash = BlockHash::of(&[(directory % 256) as u8, (directory / 256) as u8]);
        write!(text, "./run{:02}/sample{:02} {hash}+409600+A{hash}01234567@6b49d200", directory / 100, directory % 100)
            .unwrap();
        for file in 0..100 {
            write!(text, " {}:4096:{}", file * 4096, file_name(file, 100)).unwrap();
        }
        text.push('\n');
    }
    let base = Snapshot::parse(&text).unwrap();
    let mut editor = base.edit();
    let directory = base.find(b"run03/sample07").unwrap();
    let block = Locator::new(BlockHash::of(b"new"), 3);
    let piece = arvados::keep::manifest::Piece { block, block_size: 3, offset: 0, length: 3 };
    editor.set_file(directory, b"new", &[piece]).unwrap();
    let target = editor.finish();
    let touched: Touched = [(&b"run03/sample07/new"[..], Depth::Entry)].into_iter().collect();
    let request = edits(&base, &target, &touched).unwrap();
    let go = GoText::of(&base);
    let portable = go.to_text();
    let mut group = criterion.benchmark_group("tree/commit of one file in 100,000");
    group.sample_size(20);
    group.bench_function("plan", |bencher| bencher.iter(|| edits(&base, &target, &touched).unwrap()));
    group.bench_function("predict", |bencher| bencher.iter(|| go.predict(&target, &request, None).hash));
    group.bench_function("one MD5 pass", |bencher| bencher.iter(|| BlockHash::of(portable.as_bytes())));
    group.bench_function("text of a loaded tree", |bencher| bencher.iter(|| GoText::of(&base).hash()));
    group.finish();
}

fn walk(tree: &Snapshot) -> u64 {
    let mut size = 0;
    let mut pending = vec![NodeId::ROOT];
    while let Some(directory) = pending.pop() {
        for child in tree.children(directory) {
            black_box(tree.name(child));
            match tree.is_directory(child) {
                true => pending.push(child),
                false => size += tree.size(child),
            }
        }
    }
    size
}

fn add(tree: &Snapshot) -> Snapshot {
    let mut editor = tree.edit();
    let block = Locator::new(BlockHash::EMPTY, 0);
    let piece = arvados::keep::manifest::Piece { block, block_size: 0, offset: 0, length: 0 };
    editor.set_file(NodeId::ROOT, b"new", &[piece]).unwrap();
    editor.finish()
}

criterion_group!(benches, bench, bench_commit);
criterion_main!(benches);
