//! Texts in messages, quoted as the controller quotes them (Go's `%q`).
//!
//! Clients and tests compare messages, and a quoted name is part of them; Rust's own form differs for characters that do
//! not print.

/// A text as Go's `%q` shows it in messages.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            '\u{80}'..='\u{a0}' | '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{feff}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_as_go_does() {
        assert_eq!(quoted("a\"b\\c\n\u{7f}é\u{a0}"), r#""a\"b\\c\n\x7fé\u00a0""#);
    }

    #[test]
    fn characters_that_print_are_left_alone() {
        assert_eq!(quoted("cafe\u{301} 日本 🙂"), "\"cafe\u{301} 日本 🙂\"");
    }
}
