//! What the demonstration cluster is filled with: small worlds that look like the real ones.
//!
//! Everything is computed, the same on every machine, so that the binary stays small and a user can see whether what the
//! mount shows is right. A [`Collection`] knows its files in the order in which they are stored; the bytes of a file are
//! made when they are uploaded, so that no more than a block of them is in memory.

use std::borrow::Cow;
use std::fmt::Write;

/// A collection to be made: where, under which name, with which files and tags.
pub struct Collection {
    pub project: Project,
    pub name: &'static str,
    pub description: &'static str,
    pub tags: &'static [&'static str],
    /// Sorted so that the files of a folder stand together.
    pub files: Vec<File>,
}

/// The projects of the demonstration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Project {
    /// The user's own, in `home`.
    Sample,
    /// Inside [`Project::Sample`].
    Results,
    /// A colleague's, which the user sees in `shared`.
    Colleague,
}

/// A file: its folder (`""` or `a/b`), its name and what is in it.
pub struct File {
    pub folder: String,
    pub name: String,
    pub content: Content,
}

/// How the bytes of a file are made.
pub enum Content {
    Text(String),
    /// Sequencing reads in FASTQ form, this many bytes of them.
    Reads(u64),
}

impl File {
    fn text(folder: impl Into<String>, name: impl Into<String>, text: String) -> File {
        File { folder: folder.into(), name: name.into(), content: Content::Text(text) }
    }
}

impl Content {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Content::Text(text) => text.len() as u64,
            Content::Reads(size) => *size,
        }
    }

    /// The bytes, in order, in pieces; those of reads are made as they are asked for.
    pub fn pieces(&self) -> Box<dyn Iterator<Item = Cow<'_, [u8]>> + Send + '_> {
        match self {
            Content::Text(text) => Box::new(std::iter::once(Cow::Borrowed(text.as_bytes()))),
            Content::Reads(size) => Box::new(Reads::new(*size).map(Cow::Owned)),
        }
    }
}

/// Three blocks of 64 MiB: enough to see reads of large files, uploaded in a second.
const READS: u64 = 3 << 26;
const NOTE_FOLDERS: usize = 100;
const NOTES_PER_FOLDER: usize = 100;

/// All of it.
pub fn collections() -> Vec<Collection> {
    vec![
        Collection {
            project: Project::Sample,
            name: "Welcome",
            description: "Where to begin",
            tags: &[],
            files: vec![File::text("", "README.txt", WELCOME.to_owned())],
        },
        Collection {
            project: Project::Sample,
            name: "Weather stations",
            description: "Daily means of twelve stations over five years",
            tags: &["weather", "small"],
            files: weather(),
        },
        Collection {
            project: Project::Sample,
            name: "Ten thousand notes",
            description: "Many small files in a hundred folders",
            tags: &["small"],
            files: notes(),
        },
        Collection {
            project: Project::Sample,
            name: "Sequencing run",
            description: "One large file",
            tags: &["sequencing", "large"],
            files: vec![
                File::text("", "run.json", "{\"instrument\": \"demo\", \"lanes\": 1}\n".to_owned()),
                File { folder: "lane1".into(), name: "reads.fastq".into(), content: Content::Reads(READS) },
            ],
        },
        Collection {
            project: Project::Results,
            name: "Yearly means",
            description: "Computed from the weather stations",
            tags: &["weather"],
            files: vec![File::text("", "means.csv", yearly_means())],
        },
        Collection {
            project: Project::Colleague,
            name: "Protocols",
            description: "Shared for reading",
            tags: &[],
            files: vec![File::text("", "extraction.md", "# Extraction\n\n1. Label the tubes.\n2. Wait.\n".to_owned())],
        },
    ]
}

const WELCOME: &str = "\
This file is in Keep, the block store of a small Arvados cluster on this machine, and you read it through `arvados mount`.

  home/Sample project/Weather stations     some small tables
  home/Sample project/Ten thousand notes   many small files: try find, grep -r, ls -l
  home/Sample project/Sequencing run       a large file: try several readers at once
  home/Sample project/Results              a project in the project
  home/Sample project/All about weather    a filter group: what matches, wherever it is
  shared/                                  what others share with you
  by_tag/                                  collections by their tags
  by_id/UUID or by_id/HASH                 anything that you know the id of

You can write here, too: what you save is on the cluster when `close` returns, and what others save shows up here.
Every collection has a hidden file `.arvados#collection` with its record, every project `.arvados#project`.
";

const STATIONS: [&str; 12] =
    ["Abisko", "Bergen", "Cork", "Davos", "Évora", "Faro", "Graz", "Hel", "Ioannina", "Jena", "Kiruna", "Linz"];
const YEARS: std::ops::RangeInclusive<u32> = 2021..=2025;

/// Tenths of a degree on a day of the year: a wave over the year and a shift per station, in whole numbers.
fn temperature(station: usize, year: u32, day: u32) -> i64 {
    let distance_from_midsummer = i64::from(day.abs_diff(196).min(366 - day.abs_diff(196)));
    let noise = (station as u64 + 1).wrapping_mul(u64::from(year * 1000 + day)).wrapping_mul(2_654_435_761) >> 7;
    200 - distance_from_midsummer * 5 / 4 - station as i64 * 7 + (noise % 60) as i64
}

fn weather() -> Vec<File> {
    let mut files = Vec::new();
    for year in YEARS {
        for (station, name) in STATIONS.iter().enumerate() {
            let mut text = String::from("day,temperature\n");
            for day in 1..=365 {
                let tenths = temperature(station, year, day);
                let _ = writeln!(text, "{day},{:.1}", tenths as f64 / 10.0);
            }
            files.push(File::text(year.to_string(), format!("{name}.csv"), text));
        }
    }
    files
}

fn yearly_means() -> String {
    let mut text = String::from("station,year,mean\n");
    for (station, name) in STATIONS.iter().enumerate() {
        for year in YEARS {
            let sum: i64 = (1..=365).map(|day| temperature(station, year, day)).sum();
            let _ = writeln!(text, "{name},{year},{:.2}", sum as f64 / 3650.0);
        }
    }
    text
}

fn notes() -> Vec<File> {
    let mut files = Vec::with_capacity(NOTE_FOLDERS * NOTES_PER_FOLDER);
    for folder in 0..NOTE_FOLDERS {
        for note in 0..NOTES_PER_FOLDER {
            let number = folder * NOTES_PER_FOLDER + note;
            let text = format!("note {number}\n\nThis is number {number} of ten thousand.\n");
            files.push(File::text(format!("{folder:02}"), format!("note {number:04}.txt"), text));
        }
    }
    files
}

/// FASTQ records up to a size, from a xorshift generator with a fixed start. A piece is some hundred of them.
struct Reads {
    left: u64,
    state: u64,
    number: u64,
}

impl Reads {
    const BASES: usize = 150;
    const RECORDS_PER_PIECE: usize = 256;

    fn new(size: u64) -> Reads {
        Reads { left: size, state: 0x9e37_79b9_7f4a_7c15, number: 0 }
    }

    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn record(&mut self, text: &mut String) {
        self.number += 1;
        let _ = writeln!(text, "@demo:{}", self.number);
        for _ in 0..Self::BASES / 30 {
            let bits = self.random();
            (0..30).for_each(|base| text.push(b"ACGT"[(bits >> (2 * base)) as usize & 3] as char));
        }
        text.push_str("\n+\n");
        for _ in 0..Self::BASES / 15 {
            let bits = self.random();
            (0..15).for_each(|base| text.push((b'5' + ((bits >> (4 * base)) & 15) as u8) as char));
        }
        text.push('\n');
    }
}

impl Iterator for Reads {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let mut text = String::with_capacity(Self::RECORDS_PER_PIECE * (2 * Self::BASES + 24));
        (0..Self::RECORDS_PER_PIECE).for_each(|_| self.record(&mut text));
        text.truncate(self.left.min(text.len() as u64) as usize);
        self.left -= text.len() as u64;
        Some(text.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_writes_is_as_long_as_it_says() {
        for collection in collections() {
            for file in collection.files.iter().filter(|file| file.content.size() < 1 << 20) {
                let written: usize = file.content.pieces().map(|piece| piece.len()).sum();
                assert_eq!(written as u64, file.content.size(), "{}/{}", file.folder, file.name);
            }
        }
        let written: usize = Content::Reads(1_000_003).pieces().map(|piece| piece.len()).sum();
        assert_eq!(written, 1_000_003);
    }

    #[test]
    fn the_files_of_a_folder_stand_together() {
        for collection in collections() {
            let mut folders: Vec<&str> = collection.files.iter().map(|file| file.folder.as_str()).collect();
            folders.dedup();
            let distinct: std::collections::BTreeSet<&str> = folders.iter().copied().collect();
            assert_eq!(folders.len(), distinct.len(), "{}", collection.name);
        }
    }
}
