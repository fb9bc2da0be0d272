//! Escaping of stream and file names (`protocol.md` 5.2), and which names can be saved at all.

use std::borrow::Cow;

/// A name at the top of a collection that the controller's file systems keep for themselves: `replace_files` answers 500
/// (`keep::replace_files`), and mounts show their own file there.
pub const RESERVED_NAME: &str = ".arvados#collection";

/// The longest name that the kernel passes on and other clients can use (`NAME_MAX`), in bytes.
pub const MAX_NAME_LENGTH: usize = 255;

/// Why a name can never be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message says what each is")]
pub enum NameProblem {
    #[error("the name is empty")]
    Empty,
    #[error("\".\" and \"..\" are no names")]
    Dots,
    #[error("the name has a \"/\"")]
    Slash,
    #[error("the name has a NUL byte")]
    Nul,
    #[error("the name is not UTF-8, which a manifest has to be")]
    NotUtf8,
    #[error("the name is longer than 255 bytes")]
    TooLong,
    #[error("the server keeps this name for itself at the top of a collection")]
    Reserved,
}

/// Whether an entry of this name can be made in a collection, `at_top`: in its top directory. What others have stored may
/// have names that cannot.
pub fn check_new_name(name: &[u8], at_top: bool) -> Result<(), NameProblem> {
    match name {
        b"" => Err(NameProblem::Empty),
        b"." | b".." => Err(NameProblem::Dots),
        _ if name.contains(&b'/') => Err(NameProblem::Slash),
        _ if name.contains(&0) => Err(NameProblem::Nul),
        _ if name.len() > MAX_NAME_LENGTH => Err(NameProblem::TooLong),
        _ if at_top && name == RESERVED_NAME.as_bytes() => Err(NameProblem::Reserved),
        _ => std::str::from_utf8(name).map(|_| ()).map_err(|_| NameProblem::NotUtf8),
    }
}

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
    // Nearly all names stand for themselves, and a manifest has a million of them.
    let escaped = |byte: &u8| *byte <= b' ' || *byte == b'\\' || *byte == b':';
    if let Ok(text) = std::str::from_utf8(name)
        && !name.iter().any(escaped)
    {
        return out.push_str(text);
    }
    for chunk in name.utf8_chunks() {
        let mut raw = chunk.valid();
        while let Some(position) = raw.as_bytes().iter().position(escaped) {
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
