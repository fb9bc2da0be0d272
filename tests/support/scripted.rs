//! An HTTP server that answers as it is told, byte by byte: for what no well-behaved server does.
//!
//! One thread of control per connection, one handler for all requests. TLS with a certificate of its own, which also
//! serves as the authority to trust.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What came in.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// By name in lower case.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

/// What goes out.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A whole answer.
    Answer { status: u16, headers: Vec<(&'static str, String)>, body: Vec<u8> },
    /// A 200 that announces `length` bytes, sends `body`, and then closes or stays silent.
    Cut { length: usize, body: Vec<u8>, silent: bool },
    /// Nothing, for ever.
    Silence,
    /// The connection is closed without an answer.
    Close,
}

impl Reply {
    pub fn ok(body: impl Into<Vec<u8>>) -> Reply {
        Reply::status(200, body)
    }

    pub fn status(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply::Answer { status, headers: Vec::new(), body: body.into() }
    }

    pub fn json(body: &serde_json::Value) -> Reply {
        Reply::ok(body.to_string())
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A running server; ends when dropped.
pub struct Server {
    pub address: SocketAddr,
    pub requests: Arc<Mutex<Vec<Request>>>,
    /// The certificate, for servers with TLS.
    pub certificate: Option<PathBuf>,
    _directory: tempfile::TempDir,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn plain(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        Server::start(false, Arc::new(handler)).await
    }

    pub async fn tls(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        Server::start(true, Arc::new(handler)).await
    }

    /// The requests so far, as `METHOD target`.
    pub fn lines(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|request| format!("{} {}", request.method, request.target)).collect()
    }

    async fn start(tls: bool, handler: Arc<Handler>) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let mut certificate = None;
        let acceptor = tls.then(|| {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
            let file = directory.path().join("certificate.pem");
            std::fs::write(&file, made.cert.pem()).unwrap();
            certificate = Some(file);
            let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let configuration =
                builder.unwrap().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
            tokio_rustls::TlsAcceptor::from(Arc::new(configuration.unwrap()))
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, seen, acceptor) = (handler.clone(), seen.clone(), acceptor.clone());
                connections.spawn(async move {
                    match acceptor {
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, &*handler, &seen).await;
                            }
                        }
                        None => serve(stream, &*handler, &seen).await,
                    }
                });
            }
        });
        Server { address, requests, certificate, _directory: directory, task }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, handler: &Handler, seen: &Mutex<Vec<Request>>) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        let reply = handler(&request);
        seen.lock().unwrap().push(request);
        let (head, body, then) = match reply {
            Reply::Answer { status, headers, body } => {
                let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
                for (name, value) in headers {
                    head.push_str(&format!("{name}: {value}\r\n"));
                }
                (head + "\r\n", body, None)
            }
            Reply::Cut { length, body, silent } => {
                (format!("HTTP/1.1 200 X\r\nContent-Length: {length}\r\n\r\n"), body, Some(silent))
            }
            Reply::Silence => (String::new(), Vec::new(), Some(true)),
            Reply::Close => return,
        };
        let sent = async {
            // In one piece: two would wait for each other's acknowledgement.
            stream.write_all(&[head.as_bytes(), &body].concat()).await?;
            stream.flush().await
        };
        match (sent.await, then) {
            (Ok(()), None) => {}
            (Ok(()), Some(true)) => std::future::pending().await,
            _ => return,
        }
    }
}

async fn read_request<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Option<Request> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer[..end].to_vec()).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let header = |line: &str| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    let headers: HashMap<String, String> = lines.filter_map(header).collect();
    let length: usize = headers.get("content-length").map_or(Some(0), |length| length.parse().ok())?;
    while buffer.len() < end + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = buffer[end..end + length].to_vec();
    buffer.drain(..end + length);
    Some(Request { method, target, headers, body })
}
