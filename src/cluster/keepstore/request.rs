//! One HTTP/1.1 request as a keepstore needs it: head, token, and the body as a stream of pieces.
//!
//! The body never exists as a whole: [`Body::next`] hands out what the socket has, at most [`PIECE`] bytes at a time,
//! so that a hundred uploads at once need a hundred pieces and not a hundred blocks.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest head that is read. A locator with all its hints and a v2 token are below 1 KiB; proxies add some.
const MAXIMUM_HEAD: usize = 64 << 10;
/// Most headers in a head; clients send about ten.
const MAXIMUM_HEADERS: usize = 64;
/// Largest piece of a body. Large enough that the hand-over to the thread that hashes and writes does not count.
pub const PIECE: usize = 256 << 10;
/// A client that sends nothing for so long in the middle of a request is gone. Above libcurl's own low-speed limit of
/// 256 s there would be nothing to win: it has given up by then (protocol.md 7.3).
const STALLED: Duration = Duration::from_secs(256);

/// Why no request could be read. The connection is closed after it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something on the socket failed, or the client went away in the middle of a request.
    #[error("cannot read the request: {0}")]
    Socket(#[from] io::Error),
    /// Not HTTP/1, or not as we accept it.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
}

/// Request line and headers.
#[derive(Debug)]
pub struct Head {
    /// As sent; methods are case-sensitive.
    pub method: String,
    /// The path, percent-decoded, without the query.
    pub path: String,
    query: String,
    headers: Vec<(String, String)>,
    http_1_0: bool,
}

impl Head {
    /// Reads the next head into `buffer`, which may hold bytes of it already and holds the beginning of the body
    /// afterwards. `None` when the client has closed the connection between two requests, or let it idle for `idle`.
    pub async fn read(stream: &mut TcpStream, buffer: &mut BytesMut, idle: Duration) -> Result<Option<Self>, Error> {
        loop {
            if let Some((head, length)) = Self::parse(buffer)? {
                buffer.advance(length);
                return Ok(Some(head));
            }
            if buffer.len() >= MAXIMUM_HEAD {
                return Err(Error::Malformed("the request head is too long"));
            }
            let waiting = if buffer.is_empty() { idle } else { STALLED };
            buffer.reserve(4 << 10);
            match tokio::time::timeout(waiting, stream.read_buf(buffer)).await {
                Ok(Ok(0)) | Err(_) if buffer.is_empty() => return Ok(None),
                Ok(Ok(0)) | Err(_) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(read) => read?,
            };
        }
    }

    fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Error> {
        let mut headers = [httparse::EMPTY_HEADER; MAXIMUM_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Error::Malformed("not an HTTP/1 request")),
        };
        let (Some(method), Some(target)) = (request.method, request.path) else {
            return Err(Error::Malformed("the request line is incomplete"));
        };
        // A proxy may send the absolute form `http://host/path`.
        let target = match target.find("://") {
            Some(at) if !target.starts_with('/') => {
                target[at + 3..].find('/').map_or("/", |slash| &target[at + 3 + slash..])
            }
            _ => target,
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned();
        let headers = request
            .headers
            .iter()
            .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).trim().to_owned()));
        let head = Self {
            method: method.to_owned(),
            path,
            query: query.to_owned(),
            headers: headers.collect(),
            http_1_0: request.version == Some(0),
        };
        Ok(Some((head, length)))
    }

    /// A header by its lower-case name; the first one when there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// A parameter of the query, decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }

    /// The token as the client presented it (protocol.md 2.2): `Bearer` or `OAuth2`, the password of `Basic`, or the
    /// parameter `api_token`.
    pub fn token(&self) -> Option<String> {
        let from_header = self.header("authorization").and_then(|value| {
            let (scheme, rest) = value.split_once(' ')?;
            match scheme {
                "Bearer" | "OAuth2" => Some(rest.trim().to_owned()),
                "Basic" => {
                    use base64::Engine;
                    let decoded = base64::engine::general_purpose::STANDARD.decode(rest.trim()).ok()?;
                    String::from_utf8(decoded).ok()?.split_once(':').map(|(_, password)| password.to_owned())
                }
                _ => None,
            }
        });
        // Not decoded as a form: clients put the token there verbatim, and a `+` cannot be in one.
        from_header.or_else(|| self.parameter("api_token")).filter(|token| !token.is_empty())
    }

    /// Whether the connection may be used for another request.
    pub fn keeps_alive(&self) -> bool {
        let says = |word: &str| {
            self.header("connection")
                .is_some_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
        };
        if self.http_1_0 { says("keep-alive") } else { !says("close") }
    }

    /// Whether the client waits for `100 Continue` before it sends the body.
    fn expects_continue(&self) -> bool {
        !self.http_1_0 && self.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
    }

    /// The body that follows this head.
    pub fn body(&self) -> Result<Body, Error> {
        let chunked = self.header("transfer-encoding").is_some_and(|value| !value.eq_ignore_ascii_case("identity"));
        let framing = if chunked {
            Framing::Chunked { left: 0, started: false }
        } else {
            match self.header("content-length") {
                None => Framing::Length(0),
                Some(text) => match text.parse() {
                    Ok(length) if text.bytes().all(|byte| byte.is_ascii_digit()) => Framing::Length(length),
                    _ => return Err(Error::Malformed("Content-Length is not a number")),
                },
            }
        };
        Ok(Body { framing, ended: false, awaits_continue: self.expects_continue() })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// `left` bytes of the current chunk are still to come.
    Chunked { left: u64, started: bool },
}

/// The part of a request after its head.
#[derive(Debug)]
pub struct Body {
    framing: Framing,
    ended: bool,
    awaits_continue: bool,
}

impl Body {
    /// The length that the client announced; `None` for a chunked body.
    pub fn announced(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(left) => Some(left),
            Framing::Chunked { .. } => None,
        }
    }

    /// Whether the client has not begun to send and will not before we say so: then an answer may come at once, and
    /// nothing needs to be read away.
    pub fn is_withheld(&self) -> bool {
        self.awaits_continue
    }

    /// The next piece, `None` at the end. `buffer` holds what was read beyond the head.
    pub async fn next(&mut self, stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<Option<Bytes>, Error> {
        if self.ended {
            return Ok(None);
        }
        if self.awaits_continue {
            self.awaits_continue = false;
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let left = match &mut self.framing {
            Framing::Length(left) => left,
            Framing::Chunked { left, started } => {
                if *left == 0 {
                    *left = next_chunk(stream, buffer, *started).await?;
                    *started = true;
                    if *left == 0 {
                        self.ended = true;
                        return Ok(None);
                    }
                }
                left
            }
        };
        if *left == 0 {
            self.ended = true;
            return Ok(None);
        }
        if buffer.is_empty() {
            let want = usize::try_from(*left).unwrap_or(PIECE).min(PIECE);
            buffer.reserve(want);
            fill(stream, buffer).await?;
        }
        let take = usize::try_from(*left).unwrap_or(PIECE).min(buffer.len()).min(PIECE);
        *left -= take as u64;
        Ok(Some(buffer.split_to(take).freeze()))
    }

    /// Reads the rest away, at most `limit` bytes of it, so that the answer reaches a client that only reads after it
    /// has sent everything. False when there is more: then the connection cannot be used again.
    pub async fn skip(&mut self, stream: &mut TcpStream, buffer: &mut BytesMut, limit: u64) -> Result<bool, Error> {
        if self.awaits_continue {
            return Ok(self.announced() == Some(0));
        }
        let mut skipped = 0;
        while let Some(piece) = self.next(stream, buffer).await? {
            skipped += piece.len() as u64;
            if skipped > limit {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

async fn fill(stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<(), Error> {
    match tokio::time::timeout(STALLED, stream.read_buf(buffer)).await {
        Ok(Ok(0)) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        Ok(read) => Ok(read.map(|_| ())?),
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    }
}

/// Reads the line that announces a chunk (and the end of the one before it, if there was one): the chunk's size, zero
/// at the end of the body, whose trailers are read too.
async fn next_chunk(stream: &mut TcpStream, buffer: &mut BytesMut, started: bool) -> Result<u64, Error> {
    if started && !line(stream, buffer).await?.is_empty() {
        return Err(Error::Malformed("a chunk is longer than announced"));
    }
    let announced = line(stream, buffer).await?;
    let digits = announced.split(';').next().unwrap_or_default().trim();
    let size = u64::from_str_radix(digits, 16).map_err(|_| Error::Malformed("a chunk size is not a number"))?;
    if size == 0 {
        while !line(stream, buffer).await?.is_empty() {}
    }
    Ok(size)
}

async fn line(stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<String, Error> {
    loop {
        if let Some(at) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(at + 1);
            return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        if buffer.len() > 4 << 10 {
            return Err(Error::Malformed("a line of the chunked body is too long"));
        }
        buffer.reserve(4 << 10);
        fill(stream, buffer).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        let text = text.replace('\n', "\r\n") + "\r\n\r\n";
        Head::parse(text.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn a_path_is_decoded_and_a_query_kept_apart() {
        let head = head("GET /acbd18db4cc2f85cedef654fccc4a4d8%2B3%2BAff%4012?prefix=a%20b HTTP/1.1");
        assert_eq!(head.path, "/acbd18db4cc2f85cedef654fccc4a4d8+3+Aff@12");
        assert_eq!(head.parameter("prefix").as_deref(), Some("a b"));
    }

    #[test]
    fn a_token_is_found_wherever_clients_put_it() {
        let token = |text: &str| head(text).token();
        assert_eq!(token("GET / HTTP/1.1\nAuthorization: Bearer v2/a/b"), Some("v2/a/b".to_owned()));
        assert_eq!(token("GET / HTTP/1.1\nauthorization: OAuth2 x "), Some("x".to_owned()));
        assert_eq!(token("GET / HTTP/1.1\nAuthorization: Basic bm9uZTpzZWNyZXQ="), Some("secret".to_owned()));
        assert_eq!(token("GET /?api_token=v2/a/b HTTP/1.1"), Some("v2/a/b".to_owned()));
        for none in
            ["GET / HTTP/1.1", "GET / HTTP/1.1\nAuthorization: bearer x", "GET / HTTP/1.1\nAuthorization: Bearer "]
        {
            assert_eq!(token(none), None, "{none}");
        }
    }

    #[test]
    fn connections_stay_open_as_the_version_and_the_client_say() {
        assert!(head("GET / HTTP/1.1").keeps_alive());
        assert!(!head("GET / HTTP/1.1\nConnection: Close").keeps_alive());
        assert!(!head("GET / HTTP/1.0").keeps_alive());
        assert!(head("GET / HTTP/1.0\nConnection: keep-alive").keeps_alive());
    }

    #[test]
    fn a_length_that_is_no_number_is_refused() {
        for length in ["-1", "+3", "3x", ""] {
            assert!(head(&format!("PUT / HTTP/1.1\nContent-Length: {length}")).body().is_err(), "{length}");
        }
    }
}
