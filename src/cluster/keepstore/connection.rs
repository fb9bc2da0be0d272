//! One connection of a client: requests one after the other, answers in the same order.
//!
//! Why not a web framework: blocks are most of what this process ever sends, and all of them are files that the kernel
//! has in memory. `sendfile(2)` passes those pages to the socket without a copy; through `actix-http` each byte is copied
//! twice (file to buffer, buffer to socket). `benches/keepstore.rs` holds the result beside nginx. What a keepstore speaks
//! of HTTP is small enough to be read in one sitting.
//!
//! Reading a page that is *not* in memory would stop the event loop, so each stretch is asked for first with
//! `RWF_NOWAIT`, which answers at once; when something is missing, a thread of the blocking pool reads it in.
//! Memory per connection is the request buffer and nothing else, however large the block and however slow the client.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;

use super::administration::{self, Reply};
use super::hash::{self, BlockHash};
use super::request::{Body, Error, Head};
use super::response::{Length, Response};
use super::upload::{self, Upload};
use super::{Keepstore, read};
use crate::cluster::configuration::random_base36;
use crate::cluster::faults::keep::{Effect, KeepFaults};
use crate::cluster::request_log::milliseconds;

/// A connection without requests is closed after so long. Clients close theirs sooner.
const IDLE: Duration = Duration::from_secs(300);
/// A client that takes nothing for so long is gone; see the limit for sending clients in `request`.
const STALLED: Duration = Duration::from_secs(256);
/// How far ahead of the socket the file must be in memory. Above the largest socket buffer (4 MiB), so that one
/// `sendfile` never runs beyond it.
const STRETCH: u64 = 8 << 20;
/// Bodies of requests that need none are read away up to this size, then the connection is closed.
const UNWANTED: u64 = 1 << 20;

/// Serves a connection until the client or an error ends it.
pub async fn serve(keepstore: Arc<Keepstore>, mut stream: TcpStream) {
    let mut buffer = BytesMut::new();
    // Small answers must not wait for the acknowledgement of the ones before.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    loop {
        let head = match Head::read(&mut stream, &mut buffer, IDLE).await {
            Ok(Some(head)) => head,
            Ok(None) => return,
            Err(Error::Malformed(what)) => {
                tracing::debug!(service = keepstore.name, what, "refusing a malformed request");
                let refusal = Response::refusal(400, "Bad Request");
                let _ = write_whole(&mut stream, &refusal, "-", false, false).await;
                return;
            }
            Err(Error::Socket(_)) => return,
        };
        let mut exchange = Exchange::new(&keepstore, &head, &mut stream, &mut buffer);
        let reusable = exchange.run().await;
        exchange.record(&reusable);
        // A broken connection is the client's business; the request log has it with status 0 or what was sent.
        if !matches!(reusable, Ok(true)) {
            return;
        }
    }
}

/// One request and its answer.
struct Exchange<'a> {
    keepstore: &'a Arc<Keepstore>,
    head: &'a Head,
    stream: &'a mut TcpStream,
    buffer: &'a mut BytesMut,
    request_id: String,
    began: Instant,
    status: u16,
    sent: u64,
    received: u64,
    fault: Option<(Arc<KeepFaults>, Effect)>,
}

impl<'a> Exchange<'a> {
    fn new(keepstore: &'a Arc<Keepstore>, head: &'a Head, stream: &'a mut TcpStream, buffer: &'a mut BytesMut) -> Self {
        let request_id = head.header("x-request-id").filter(|id| !id.is_empty()).map(str::to_owned);
        let request_id = request_id.unwrap_or_else(|| format!("req-{}", random_base36(20)));
        let fault =
            keepstore.faults.as_ref().map(|faults| (Arc::clone(faults), faults.begin(&head.method, &head.path)));
        let began = Instant::now();
        Self { keepstore, head, stream, buffer, request_id, began, status: 0, sent: 0, received: 0, fault }
    }

    /// Answers. False when the connection cannot be used again.
    async fn run(&mut self) -> Result<bool, Error> {
        let mut body = self.head.body()?;
        if let Some((_, effect)) = &self.fault {
            effect.wait().await;
            if effect.drops_before() {
                return Ok(false);
            }
        }
        let (method, path) = (self.head.method.as_str(), self.head.path.as_str());
        let locator = path.strip_prefix('/').filter(|rest| hash::leading(rest).is_some());
        let readable = locator.or_else(|| path.strip_prefix("//").filter(|rest| hash::leading(rest).is_some()));
        match (method, locator, readable) {
            ("PUT", Some(locator), _) => self.put(locator, body).await,
            ("GET" | "HEAD", _, Some(locator)) => {
                let locator = locator.to_owned();
                let reusable = self.finish_body(&mut body).await?;
                self.get(&locator).await.map(|kept| kept && reusable)
            }
            _ => {
                let reusable = if administration::takes_body(method, path) {
                    let text = self.collect(&mut body).await?;
                    let reply = administration::answer(self.keepstore, self.head, locator, &text).await;
                    self.send(reply).await?
                } else {
                    let kept = self.finish_body(&mut body).await?;
                    let reply = administration::answer(self.keepstore, self.head, locator, &[]).await;
                    self.send(reply).await? && kept
                };
                Ok(reusable)
            }
        }
    }

    async fn finish_body(&mut self, body: &mut Body) -> Result<bool, Error> {
        body.skip(self.stream, self.buffer, UNWANTED).await
    }

    /// A pull or trash list: JSON of at most 64 MiB (half a million blocks).
    async fn collect(&mut self, body: &mut Body) -> Result<Vec<u8>, Error> {
        let mut whole = Vec::new();
        while let Some(piece) = body.next(self.stream, self.buffer).await? {
            if whole.len() + piece.len() > super::volume::BLOCK_SIZE as usize {
                return Err(Error::Malformed("a list is longer than 64 MiB"));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }

    async fn put(&mut self, locator: &str, body: Body) -> Result<bool, Error> {
        // `parse` cannot fail: the router has seen a hash there.
        let Some(hash) = hash::leading(locator) else { return Ok(false) };
        let classes = Upload::classes(self.head.header("x-keep-storage-classes"));
        if let Some((faults, effect)) = &self.fault {
            faults.uploading(effect, &classes);
        }
        let upload = Upload { hash, classes, token: self.head.token() };
        let refused = self.fault.as_ref().and_then(|(faults, effect)| faults.refuses_upload(effect, hash));
        let (response, received, reusable) = match refused {
            Some(status) => {
                let mut body = body;
                let reusable = body.skip(self.stream, self.buffer, super::volume::BLOCK_SIZE).await?;
                (Response::text(status, "injected\n"), 0, reusable)
            }
            None => upload::receive(self.keepstore, upload, body, self.stream, self.buffer).await?,
        };
        self.received = received;
        if self.fault.as_ref().is_some_and(|(_, effect)| effect.drops_after()) {
            return Ok(false);
        }
        let kept = self.send(Reply::Whole(response)).await?;
        Ok(kept && reusable)
    }

    async fn get(&mut self, locator: &str) -> Result<bool, Error> {
        let only_head = self.head.method == "HEAD";
        if let Some(status) = self.fault.as_ref().and_then(|(_, effect)| effect.status()) {
            return self.send(Reply::Whole(Response::text(status, "injected\n"))).await;
        }
        let answer = read::block(self.keepstore, locator, self.head.token().as_deref(), only_head).await;
        match answer {
            read::Answer::Plain(response) => self.send(Reply::Whole(response)).await,
            read::Answer::Block { response, file, announce, send } => {
                self.status = response.status;
                let keep_alive = self.head.keeps_alive();
                let head = response.head(Length::Bytes(announce), &self.request_id, keep_alive);
                if only_head {
                    write_all(self.stream, &head).await?;
                    return Ok(keep_alive);
                }
                if let (Some((faults, effect)), Some(hash)) = (self.fault.clone(), hash::leading(locator)) {
                    return self.get_with_fault(&faults, &effect, hash, &head, &file, send).await;
                }
                write_head_of_file(self.stream, &head).await?;
                self.sent = send_file(self.stream, &file, 0, send).await?;
                Ok(keep_alive && send == announce)
            }
        }
    }

    /// The same under a rule of the fault interface: slower, damaged or cut off.
    async fn get_with_fault(
        &mut self,
        faults: &KeepFaults,
        effect: &Effect,
        hash: BlockHash,
        head: &[u8],
        file: &Arc<File>,
        send: u64,
    ) -> Result<bool, Error> {
        if let Some(damage) = faults.damage(effect, hash) {
            if damage.refuses() {
                let text = "checksum mismatch in stored data\n";
                return self.send(Reply::Whole(Response::text(502, text).with("Vary", "X-Keep-Signature"))).await;
            }
            let content = read_all(file, send).await?;
            let (content, whole) = damage.apply(content);
            write_all(self.stream, head).await?;
            write_all(self.stream, &content).await?;
            self.sent = content.len() as u64;
            return Ok(whole && self.head.keeps_alive());
        }
        let end = if effect.drops_midway() { send / 2 } else { send };
        write_head_of_file(self.stream, head).await?;
        while self.sent < end {
            let step = faults.pace(effect, end - self.sent).await;
            send_file(self.stream, file, self.sent, self.sent + step).await?;
            self.sent += step;
        }
        Ok(end == send && self.head.keeps_alive())
    }

    async fn send(&mut self, reply: Reply) -> Result<bool, Error> {
        let keep_alive = self.head.keeps_alive();
        let only_head = self.head.method == "HEAD";
        match reply {
            Reply::Whole(response) => {
                self.status = response.status;
                write_whole(self.stream, &response, &self.request_id, keep_alive, only_head).await?;
                self.sent = response.body.len() as u64;
                Ok(keep_alive)
            }
            Reply::Lines(response, mut lines) => {
                self.status = response.status;
                let head = response.head(Length::Chunked, &self.request_id, keep_alive);
                write_all(self.stream, &head).await?;
                while let Some(piece) = lines.recv().await {
                    // What cannot be read is not there: without the blank line at the end and without the last chunk the
                    // client knows that the index is cut short.
                    let piece = piece?;
                    if !piece.is_empty() {
                        write_all(self.stream, format!("{:x}\r\n", piece.len()).as_bytes()).await?;
                        write_all(self.stream, &piece).await?;
                        write_all(self.stream, b"\r\n").await?;
                        self.sent += piece.len() as u64;
                    }
                }
                write_all(self.stream, b"0\r\n\r\n").await?;
                Ok(keep_alive)
            }
        }
    }

    /// The request log, the counters, and the log of the fault interface.
    fn record(&self, outcome: &Result<bool, Error>) {
        let took = self.began.elapsed();
        let Self { keepstore, head, status, sent, received, .. } = *self;
        // A path may hold a signature, and a path that is no locator whatever a client wants to see in a log.
        let path = head.path.trim_start_matches('/');
        let shown = hash::leading(path).map_or_else(
            || path.split('/').next().unwrap_or_default().chars().take(40).collect(),
            |hash| hash.to_string(),
        );
        let milliseconds = milliseconds(took);
        let (service, method) = (keepstore.name.as_str(), head.method.as_str());
        let failure = outcome.as_ref().err().map(ToString::to_string);
        tracing::info!(
            target: "arvados::cluster::requests",
            service, method, path = ?shown, status, sent, received, milliseconds, request_id = ?self.request_id,
            error = failure, "request"
        );
        keepstore.metrics.request(service, method, status, took, sent, received);
        if let Some((faults, effect)) = &self.fault {
            faults.end(effect, status, sent.max(received));
        }
    }
}

async fn write_whole(
    stream: &mut TcpStream,
    response: &Response,
    request_id: &str,
    keep_alive: bool,
    only_head: bool,
) -> Result<(), Error> {
    let mut bytes = response.head(Length::Bytes(response.body.len() as u64), request_id, keep_alive);
    if !only_head {
        bytes.extend_from_slice(&response.body);
    }
    write_all(stream, &bytes).await
}

async fn write_all(stream: &mut TcpStream, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        match tokio::time::timeout(STALLED, stream.write(bytes)).await {
            Ok(Ok(0)) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            Ok(written) => bytes = &bytes[written?..],
            Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }
    Ok(())
}

/// Sends a head that the content of a file follows: `MSG_MORE` lets both share a packet although `TCP_NODELAY` is set.
async fn write_head_of_file(stream: &mut TcpStream, mut head: &[u8]) -> Result<(), Error> {
    let more = nix::sys::socket::MsgFlags::from_bits_retain(libc::MSG_MORE);
    while !head.is_empty() {
        let written = stream
            .async_io(Interest::WRITABLE, || nix::sys::socket::send(stream.as_raw_fd(), head, more).map_err(Into::into))
            .await?;
        head = &head[written..];
    }
    Ok(())
}

/// Sends bytes `from..to` of a file; returns how many.
async fn send_file(stream: &TcpStream, file: &Arc<File>, from: u64, to: u64) -> Result<u64, Error> {
    let mut offset = from;
    while offset < to {
        let stretch = (to - offset).min(STRETCH);
        bring_into_memory(file, offset, stretch).await?;
        let end = offset + stretch;
        while offset < end {
            let position = i64::try_from(offset).map_err(io::Error::other)?;
            let count = usize::try_from(end - offset).map_err(io::Error::other)?;
            let sending = stream.async_io(Interest::WRITABLE, || {
                let mut position = position;
                nix::sys::sendfile::sendfile(stream, file.as_ref(), Some(&mut position), count).map_err(Into::into)
            });
            match tokio::time::timeout(STALLED, sending).await {
                // The file was cut short under our feet. The client notices by the length.
                Ok(Ok(0)) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(sent) => offset += sent? as u64,
                Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        }
    }
    Ok(to - from)
}

/// Makes sure that `sendfile` will not wait for the disk: probes one byte in every 128 KiB (the kernel's usual read-ahead
/// unit), and reads the stretch on a thread that may wait when one is missing.
async fn bring_into_memory(file: &Arc<File>, offset: u64, length: u64) -> Result<(), Error> {
    const STEP: u64 = 128 << 10;
    if (offset..offset + length).step_by(STEP as usize).all(|offset| is_in_memory(file, offset)) {
        return Ok(());
    }
    let file = Arc::clone(file);
    let reading = tokio::task::spawn_blocking(move || {
        let mut piece = vec![0; STEP as usize];
        let end = offset + length;
        let mut offset = offset;
        while offset < end {
            match file.read_at(&mut piece, offset)? {
                0 => break,
                read => offset += read as u64,
            }
        }
        Ok::<_, io::Error>(())
    });
    Ok(reading.await.map_err(io::Error::other)??)
}

/// Whether reading here would not wait. File systems that cannot tell count as fast.
fn is_in_memory(file: &File, offset: u64) -> bool {
    let mut byte = 0_u8;
    let vector = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let Ok(offset) = libc::off_t::try_from(offset) else { return true };
    // SAFETY: one vector of one byte that lives until the call returns, and a file that is open.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &raw const vector, 1, offset, libc::RWF_NOWAIT) };
    read >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock
}

async fn read_all(file: &Arc<File>, length: u64) -> Result<Vec<u8>, Error> {
    let file = Arc::clone(file);
    let reading = tokio::task::spawn_blocking(move || {
        let mut content = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact_at(&mut content, 0)?;
        Ok::<_, io::Error>(content)
    });
    Ok(reading.await.map_err(io::Error::other)??)
}
