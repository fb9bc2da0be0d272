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
    for_each_locator(text, |position, locator| {
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
