//! The token, in a type that does not print.
//!
//! A token is the whole of a user's rights, so it must not reach a log, an error text or `Debug` output by accident:
//! the only ways to its text are [`Token::expose`] and [`Token::authorization`], which are easy to search for.

use reqwest::header::HeaderValue;
use std::sync::Arc;

/// An API token of either form (protocol.md 2.1). Cheap to clone; prints as `[hidden]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl Token {
    /// Takes a token as the user gave it. `None` if it cannot be sent in a header: empty, or with a character that is
    /// not printable ASCII (a line break pasted along, above all).
    pub fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        let sendable = !text.is_empty() && text.bytes().all(|byte| (0x21..0x7f).contains(&byte));
        sendable.then(|| Token(Arc::from(text)))
    }

    /// The secret itself, for the places that send it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The value of an `Authorization` header, marked so that HTTP libraries do not print it either.
    pub fn authorization(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0))
            .unwrap_or_else(|_| HeaderValue::from_static("Bearer invalid"));
        value.set_sensitive(true);
        value
    }

    /// `text` without this token (nor its secret part alone) and without block signatures, at most 2000 bytes of it:
    /// what may be shown of a message that came from a server.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.replace(&*self.0, "[token]");
        if let Some(secret) = self.0.split('/').nth(2).filter(|secret| secret.len() >= 8) {
            text = text.replace(secret, "[token]");
        }
        hide_signatures(&shorten(&text))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("[hidden]")
    }
}

fn shorten(text: &str) -> String {
    const LIMIT: usize = 2000;
    if text.len() <= LIMIT {
        return text.to_owned();
    }
    let end = (0..=LIMIT).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// Replaces the 40 hexadecimal digits of every `+A…@…` and `+Rccccc-…@…` hint by `[signature]`.
pub fn hide_signatures(text: &str) -> String {
    const DIGITS: usize = 40;
    let bytes = text.as_bytes();
    let mut result = String::with_capacity(text.len());
    let mut copied = 0;
    let mut at = 0;
    while at + 2 < bytes.len() {
        let start = match (bytes[at], bytes[at + 1]) {
            (b'+', b'A') => at + 2,
            (b'+', b'R') if bytes.get(at + 7) == Some(&b'-') => at + 8,
            _ => {
                at += 1;
                continue;
            }
        };
        let end = start + DIGITS;
        if bytes.get(start..end).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            result.push_str(&text[copied..start]);
            result.push_str("[signature]");
            copied = end;
            at = end;
        } else {
            at += 1;
        }
    }
    result.push_str(&text[copied..]);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "v2/zzzzz-gj3su-0123456789abcde/3kg6k6lzmp9kj5cpkcoxie963cmvjahbt2fod9zru30k1jqdmi";

    #[test]
    fn a_token_never_prints() {
        let token = Token::new(TEXT).unwrap();
        assert_eq!(format!("{token:?}"), "[hidden]");
        assert!(!format!("{:?}", token.authorization()).contains("3kg6k6"));
        assert_eq!(
            token.redact(&format!("Bad: {TEXT} and 3kg6k6lzmp9kj5cpkcoxie963cmvjahbt2fod9zru30k1jqdmi.")),
            "Bad: [token] and [token]."
        );
    }

    #[test]
    fn a_token_with_a_line_break_inside_or_nothing_in_it_is_refused() {
        assert_eq!(Token::new(" \n"), None);
        assert_eq!(Token::new("abc\ndef"), None);
        assert_eq!(Token::new("abc\n").unwrap().expose(), "abc");
    }

    #[test]
    fn signatures_are_hidden_wherever_they_stand() {
        let signature = "d93590fd78db663df1c6ea9474686f221dc9e5f8";
        let text = format!("bad +A{signature}@6b49d200 and +Rzzzzz-{signature}@6b49d200 in 'é+A{signature}");
        assert_eq!(
            hide_signatures(&text),
            "bad +A[signature]@6b49d200 and +Rzzzzz-[signature]@6b49d200 in 'é+A[signature]"
        );
        assert_eq!(hide_signatures("+A12 +"), "+A12 +");
    }

    proptest! {
        #[test]
        fn any_text_can_be_redacted(text in ".*|(\\+[AR]z{0,5}-?[0-9a-f]{38,42}é?)*") {
            Token::new(TEXT).unwrap().redact(&text);
        }
    }
}
