//! What a keepstore answers, as bytes on the wire.
//!
//! Two rules of real clients decide the order of headers. The Python client parses them itself, appends the blank line
//! at the end to the last header, and uses `X-Keep-Locator` untrimmed (protocol.md 7.3): so the length and the type come
//! last. And every answer, errors too, carries the CORS headers, or a browser hides it from the page.

use std::fmt::Write;

/// Allowed and exposed to pages of any origin, word for word as a real keepstore says it (`keep/06-put`).
const CROSS_ORIGIN: &str = "Access-Control-Allow-Headers: Authorization, Content-Length, Content-Type, \
    X-Keep-Desired-Replicas, X-Keep-Signature, X-Keep-Storage-Classes\r\n\
    Access-Control-Allow-Methods: GET, HEAD, PUT, OPTIONS\r\n\
    Access-Control-Allow-Origin: *\r\n\
    Access-Control-Expose-Headers: X-Keep-Locator, X-Keep-Replicas-Stored, X-Keep-Storage-Classes-Confirmed\r\n\
    Access-Control-Max-Age: 86486400\r\n";

/// How much of a body follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes.
    Bytes(u64),
    /// Chunks, as many as it takes.
    Chunked,
}

/// An answer, all but a body that is streamed.
#[derive(Debug)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Headers of this answer, in the order in which they are sent, before those that every answer has.
    pub headers: Vec<(&'static str, String)>,
    /// Type of the body, if it has one.
    pub content_type: Option<&'static str>,
    /// The body, unless it is streamed.
    pub body: Vec<u8>,
}

/// Type of error texts, locators and indexes.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// Type of blocks. A real keepstore guesses from the content; a fixed type cannot be made to look like a page.
pub const BYTES: &str = "application/octet-stream";

impl Response {
    /// An answer without a body.
    pub fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), content_type: None, body: Vec::new() }
    }

    /// An answer with a text.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self { content_type: Some(TEXT), body: text.into().into_bytes(), ..Self::empty(status) }
    }

    /// A refusal by the router, before any block was looked at.
    pub fn refusal(status: u16, text: &str) -> Self {
        Self::text(status, format!("{text}\n")).with("X-Content-Type-Options", "nosniff")
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The head as bytes. `request_id` goes back to the client verbatim; it came in as one header line, so it cannot
    /// hold a line break.
    pub fn head(&self, length: Length, request_id: &str, keep_alive: bool) -> Vec<u8> {
        let mut head = String::with_capacity(1 << 10);
        // Writing to a `String` cannot fail.
        let _ = write!(head, "HTTP/1.1 {} {}\r\n{CROSS_ORIGIN}", self.status, reason(self.status));
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let now = chrono::Utc::now().format("%a, %d %b %Y %H:%M:%S GMT");
        let _ = write!(head, "X-Request-Id: {request_id}\r\nDate: {now}\r\n");
        if !keep_alive {
            head.push_str("Connection: close\r\n");
        }
        if let Some(content_type) = self.content_type {
            let _ = write!(head, "Content-Type: {content_type}\r\n");
        }
        let _ = match length {
            Length::Bytes(bytes) => write!(head, "Content-Length: {bytes}\r\n\r\n"),
            Length::Chunked => write!(head, "Transfer-Encoding: chunked\r\n\r\n"),
        };
        head.into_bytes()
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Request Entity Too Large",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        507 => "Insufficient Storage",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locator_is_never_the_last_header() {
        let head = Response::empty(200).with("X-Keep-Locator", "x").head(Length::Bytes(0), "req-1", true);
        let head = String::from_utf8(head).unwrap();
        let last = head.trim_end().rsplit("\r\n").next().unwrap().to_owned();
        assert!(head.contains("X-Keep-Locator: x\r\n") && last.starts_with("Content-Length"), "{head}");
        assert!(head.ends_with("\r\n\r\n"));
    }
}
