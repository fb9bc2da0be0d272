//! Passing a manifest through with its locators changed, everything else untouched.
//!
//! The server decides by the look of a token what is a locator (`protocol.md` 5.4, 6.1), wherever it stands in the line
//! behind the stream name; so do these functions. Files named like a hash are safe: their tokens start with a number and
//! a colon.

use crate::keep::locator::LocatorText;

/// Calls `each` with every token that is a locator and its byte position in `text`.
fn for_each_locator<'t>(text: &'t str, mut each: impl FnMut(usize, LocatorText<'t>)) {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let tokens = line.strip_suffix('\n').unwrap_or(line);
        let mut position = start;
        for (index, token) in tokens.split(' ').enumerate() {
            if index > 0
                && let Ok(locator) = LocatorText::parse(token)
            {
                each(position, locator);
            }
            position += token.len() + 1;
        }
        start += line.len();
    }
}

/// As [`for_each_locator`], but only those with a hint besides the size: the others are passed over without being read.
fn for_each_hinted_locator<'t>(text: &'t str, mut each: impl FnMut(usize, LocatorText<'t>)) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(plus) = text[at..].find('+').map(|found| at + found) {
        at = plus + 1;
        if !bytes.get(at).is_some_and(u8::is_ascii_uppercase) {
            continue;
        }
        let is_border = |byte: &u8| matches!(byte, b' ' | b'\n');
        let start = bytes[..plus].iter().rposition(is_border).map_or(0, |border| border + 1);
        let end = bytes[plus..].iter().position(is_border).map_or(bytes.len(), |border| plus + border);
        at = end;
        // What stands first in a line is the name of the stream.
        if start > 0
            && bytes[start - 1] == b' '
            && let Ok(locator) = LocatorText::parse(&text[start..end])
        {
            each(start, locator);
        }
    }
}

/// Copies `text` to `out` without some hints; for every locator with a hint besides the size `replace` is called, which appends
/// what shall stand in its place.
pub fn rewrite_hinted_locators(text: &str, out: &mut String, mut replace: impl FnMut(&mut String, &str)) {
    let mut copied = 0;
    for_each_hinted_locator(text, |position, locator| {
        out.push_str(&text[copied..position]);
        replace(out, locator.as_str());
        copied = position + locator.as_str().len();
    });
    out.push_str(&text[copied..]);
}

/// Calls `each` with every locator that has a hint besides the size.
pub fn hinted_locators<'t>(text: &'t str, mut each: impl FnMut(LocatorText<'t>)) {
    for_each_hinted_locator(text, |_, locator| each(locator));
}

/// Copies `text` to `out`; for every locator `replace` is called instead, which appends what shall stand in its place.
pub fn rewrite_locators(text: &str, out: &mut String, mut replace: impl FnMut(&mut String, &str)) {
    let mut copied = 0;
    for_each_locator(text, |position, locator| {
        out.push_str(&text[copied..position]);
        replace(out, locator.as_str());
        copied = position + locator.as_str().len();
    });
    out.push_str(&text[copied..]);
}

/// Hands out, in order, the parts of the portable text of a manifest: every locator reduced to hash and size.
pub fn portable_parts(text: &str, mut part: impl FnMut(&[u8])) {
    let mut passed = 0;
    for_each_hinted_locator(text, |position, locator| {
        let (whole, portable) = (locator.as_str().len(), locator.portable().len());
        if whole > portable {
            part(&text.as_bytes()[passed..position + portable]);
            passed = position + whole;
        }
    });
    part(&text.as_bytes()[passed..]);
    if !text.is_empty() && !text.ends_with('\n') {
        part(b"\n");
    }
}

/// The portable text of a manifest, of which the portable data hash is the hash.
pub fn portable_text(text: &str) -> String {
    let mut portable = Vec::with_capacity(text.len());
    portable_parts(text, |part| portable.extend_from_slice(part));
    // Only whole tokens of ASCII are left out, so what remains is as much UTF-8 as the text was.
    String::from_utf8(portable).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "acbd18db4cc2f85cedef654fccc4a4d8";

    fn token() -> impl Strategy<Value = String> {
        prop_oneof![
            2 => prop::collection::vec(prop_oneof!["[0-9]{1,3}", "[A-Z][a-z0-9@_-]{0,4}", "[a-zé]{1,2}"], 0..4)
                .prop_map(|hints| hints.iter().fold(HASH.to_owned(), |text, hint| format!("{text}+{hint}"))),
            1 => "[0-9]:[0-9]:[a-z+A]{1,5}",
            1 => "[.+A-Zé]{0,3}",
        ]
    }

    proptest! {
        #[test]
        fn passing_over_what_has_no_hints_changes_nothing(
            lines in prop::collection::vec(prop::collection::vec(token(), 0..5), 0..4), ended in any::<bool>(),
        ) {
            let lines: Vec<String> = lines.iter().map(|tokens| tokens.join(" ")).collect();
            let text = lines.join("\n") + if ended { "\n" } else { "" };
            let (mut all, mut hinted) = (Vec::new(), Vec::new());
            for_each_locator(&text, |position, locator| {
                if locator.as_str() != locator.portable() {
                    all.push((position, locator.as_str().to_owned()));
                }
            });
            for_each_hinted_locator(&text, |position, locator| hinted.push((position, locator.as_str().to_owned())));
            prop_assert_eq!(all, hinted);
        }
    }
}
