//! Escaping of stream and file names (`protocol.md` 5.2).

use std::borrow::Cow;

/// The bytes of an escaped name: `\ooo` (up to `\377`) is a byte, `\\` a backslash, as the Go and Ruby readers have it.
/// Any other backslash stands for itself. Python decodes `\303\251` to two characters instead; that is its fault alone,
/// and no writer escapes non-ASCII.
pub fn unescape(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    let Some(first) = bytes.iter().position(|&byte| byte == b'\\') else { return Cow::Borrowed(bytes) };
    let mut name = Vec::with_capacity(bytes.len());
    name.extend_from_slice(&bytes[..first]);
    let mut rest = &bytes[first..];
    loop {
        rest = match rest {
            [b'\\', high @ b'0'..=b'3', middle @ b'0'..=b'7', low @ b'0'..=b'7', tail @ ..] => {
                name.push((high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0'));
                tail
            }
            [b'\\', b'\\', tail @ ..] => {
                name.push(b'\\');
                tail
            }
            [byte, tail @ ..] => {
                name.push(*byte);
                tail
            }
            [] => return Cow::Owned(name),
        }
    }
}

/// Appends a name as the writers of Python and Go escape it: bytes up to 0x20, `\` and `:` as `\ooo`, the rest raw.
///
/// Bytes that are not UTF-8 are escaped too: a manifest has to be UTF-8 (`protocol.md` 4.2), and the Go reader turns them
/// back. No upstream writer meets them.
pub fn push_escaped(out: &mut String, name: &[u8]) {
    for chunk in name.utf8_chunks() {
        let mut raw = chunk.valid();
        while let Some(position) = raw.bytes().position(|byte| byte <= b' ' || byte == b'\\' || byte == b':') {
            out.push_str(&raw[..position]);
            push_octal(out, raw.as_bytes()[position]);
            raw = &raw[position + 1..];
        }
        out.push_str(raw);
        chunk.invalid().iter().for_each(|&byte| push_octal(out, byte));
    }
}

/// A name as the writers escape it; see [`push_escaped`].
pub fn escape(name: &[u8]) -> String {
    let mut escaped = String::with_capacity(name.len());
    push_escaped(&mut escaped, name);
    escaped
}

fn push_octal(out: &mut String, byte: u8) {
    out.push('\\');
    for shift in [6, 3, 0] {
        out.push(char::from(b'0' + (byte >> shift & 7)));
    }
}
