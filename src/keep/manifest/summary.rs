//! `file_count` and `file_size_total` as the API server computes them (`protocol.md` 4.2, item 9).

use super::lines::{ManifestError, lines};
use super::name::unescape;
use std::borrow::Cow;
use std::collections::HashSet;

/// What the server stores beside a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Number of distinct paths, marks of empty directories left out.
    pub file_count: u64,
    /// Sum of the lengths of all file tokens in bytes, whether they lie in their stream or not.
    pub file_size_total: u64,
}

/// Counts the files of a manifest. One path may have several tokens, also in several lines.
pub fn file_count_and_size(text: &str) -> Result<Summary, ManifestError> {
    match count_in_order(text)? {
        Some(summary) => Ok(summary),
        None => count_any(text),
    }
}

/// The count of a text of which it can be seen without a table of all paths that no path comes twice: each directory has one line, and
/// its files stand there in order. `None` for others. All that clients and servers write are like this.
fn count_in_order(text: &str) -> Result<Option<Summary>, ManifestError> {
    let mut summary = Summary::default();
    let mut streams = HashSet::new();
    for line in lines(text) {
        let line = line?;
        let stream = unescape(line.name);
        if !(&*stream == b"." || stream.starts_with(b"./")) || !streams.insert(stream) {
            return Ok(None);
        }
        let mut last: Option<Cow<'_, [u8]>> = None;
        for token in line.files() {
            let token = token?;
            summary.file_size_total = summary.file_size_total.saturating_add(token.length);
            if token.marks_directory() {
                continue;
            }
            let name = unescape(token.name);
            if name.contains(&b'/') || last.as_ref().is_some_and(|last| *last > name) {
                return Ok(None);
            }
            summary.file_count += u64::from(last.as_ref() != Some(&name));
            last = Some(name);
        }
    }
    Ok(Some(summary))
}

fn count_any(text: &str) -> Result<Summary, ManifestError> {
    let mut paths: HashSet<Cow<'_, [u8]>> = HashSet::new();
    let mut file_size_total = 0u64;
    for line in lines(text) {
        let line = line?;
        let stream = unescape(line.name);
        for token in line.files() {
            let token = token?;
            file_size_total = file_size_total.saturating_add(token.length);
            if token.marks_directory() {
                continue;
            }
            let name = unescape(token.name);
            paths.insert(match stream.strip_prefix(b"./") {
                Some(directory) => Cow::Owned([directory, b"/", &*name].concat()),
                None => name,
            });
        }
    }
    Ok(Summary { file_count: paths.len() as u64, file_size_total })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line() -> impl Strategy<Value = String> {
        let stream = prop_oneof![Just("."), Just("./a"), Just("./a/b"), Just("./"), Just("./\\141"), Just("x")];
        let name = prop_oneof![Just("a"), Just("b"), Just("b/c"), Just("\\142"), Just("c"), Just("."), Just("d\\040")];
        let file = (0u64..5, name).prop_map(|(length, name)| format!(" 0:{length}:{name}"));
        let files = prop::collection::vec(file, 1..5);
        (stream, files)
            .prop_map(|(stream, files)| format!("{stream} acbd18db4cc2f85cedef654fccc4a4d8+3{}\n", files.concat()))
    }

    proptest! {
        #[test]
        fn quick_count_is_the_count(lines in prop::collection::vec(line(), 0..4)) {
            let text = lines.concat();
            let slow = count_any(&text);
            if let Some(quick) = count_in_order(&text).transpose() {
                prop_assert_eq!(&quick, &slow);
            }
            prop_assert_eq!(file_count_and_size(&text), slow);
        }
    }

    #[test]
    fn texts_as_they_are_written_are_counted_quickly() {
        let text = ". acbd18db4cc2f85cedef654fccc4a4d8+3 0:3:a 0:1:b 1:2:b\n./d acbd18db4cc2f85cedef654fccc4a4d8+3 0:0:. 0:3:a\n";
        assert_eq!(count_in_order(text), Ok(Some(Summary { file_count: 3, file_size_total: 9 })));
    }
}
