//! A client that sends the bytes it is told to: odd paths, odd methods, bodies that are not what they claim.
//!
//! Ordinary HTTP clients tidy up paths and percent-encodings, which is just what some recordings are about. One
//! connection per request, HTTP/1.1, blocking with time limits.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

/// No answer takes longer than this, or the test fails instead of hanging.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Where a service listens.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// Address.
    pub address: SocketAddr,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers in their order.
    pub headers: Vec<(String, String)>,
    /// Body, chunks joined.
    pub body: Vec<u8>,
    /// Whether the connection ended before the announced length.
    pub cut: bool,
}

impl Answer {
    /// The first header of a name.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }
}

/// The first header of a name, in any case.
pub fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// A connection, encrypted or not.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// Connects, with `limit` on each later read and write.
    pub fn connect(service: Service, limit: Duration) -> std::io::Result<Self> {
        let tcp = TcpStream::connect_timeout(&service.address, LIMIT)?;
        tcp.set_read_timeout(Some(limit))?;
        tcp.set_write_timeout(Some(limit))?;
        tcp.set_nodelay(true)?;
        if !service.tls {
            return Ok(Self::Plain(tcp));
        }
        let name = ServerName::try_from("localhost").expect("localhost is a name");
        let connection = ClientConnection::new(Arc::clone(&TLS), name).map_err(std::io::Error::other)?;
        Ok(Self::Tls(Box::new(StreamOwned::new(connection, tcp))))
    }

    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(buffer),
            Self::Tls(tls) => tls.write(buffer),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

/// Sends a request and reads the whole answer.
pub fn exchange(
    service: Service,
    method: &str,
    target: &str,
    headers: &[(String, String)],
    body: Option<&[u8]>,
) -> std::io::Result<Answer> {
    let mut stream = Stream::connect(service, LIMIT)?;
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", service.address);
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = body {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    // A server that refuses a large body may answer and close before it has read all of it.
    let refused = body.is_some_and(|body| stream.write_all(body).is_err());
    let mut bytes = Vec::new();
    match stream.flush().and_then(|()| stream.read_to_end(&mut bytes)) {
        Ok(_) => {}
        // Without close_notify, or reset after the answer: what came is what counts.
        Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {}
        Err(error) if refused && !bytes.is_empty() => drop(error),
        Err(error) => return Err(error),
    }
    parse(&bytes, method == "HEAD").ok_or_else(|| {
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        std::io::Error::new(ErrorKind::InvalidData, format!("no HTTP answer: {start:?}"))
    })
}

fn parse(mut bytes: &[u8], head_only: bool) -> Option<Answer> {
    loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let (head, rest) = (std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 4..]);
        let mut lines = head.split("\r\n");
        let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        if status == 100 {
            bytes = rest;
            continue;
        }
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned())))
            .collect();
        let (body, cut) = if head_only || status == 204 || status == 304 {
            (Vec::new(), false)
        } else if header(&headers, "Transfer-Encoding").is_some_and(|coding| coding.contains("chunked")) {
            unchunk(rest)
        } else {
            let length = header(&headers, "Content-Length").and_then(|length| length.parse().ok());
            (rest.to_vec(), length.is_some_and(|length: usize| rest.len() < length))
        };
        return Some(Answer { status, headers, body, cut });
    }
}

fn unchunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { return (body, true) };
        let size = std::str::from_utf8(&rest[..end]).ok().and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
        match size {
            Some(0) => return (body, false),
            Some(size) if rest.len() >= end + 2 + size + 2 => {
                body.extend_from_slice(&rest[end + 2..end + 2 + size]);
                rest = &rest[end + 2 + size + 2..];
            }
            _ => return (body, true),
        }
    }
}

/// TLS as the real clients do it with `ARVADOS_API_HOST_INSECURE`: whether the certificate is good is for others to
/// test.
static TLS: std::sync::LazyLock<Arc<ClientConfig>> = std::sync::LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the default versions are known")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    Arc::new(config)
});

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
