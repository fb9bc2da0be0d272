//! `PUT` of a block: received, hashed and written at the same time.
//!
//! The event loop only reads the socket; a thread of the blocking pool hashes each piece and gives it to its sinks: a
//! comparison with the block where a volume has it already, a new file where not. At most [`AHEAD`] pieces wait for the
//! thread, so an upload uses a few megabytes whatever the size of the block, and a slow disk makes the client wait.
//!
//! Nothing appears under a block's name before the whole body has come and its hash is right. A stored block that
//! differs from the body (damaged, or a real collision of MD5) is never overwritten and never accepted: 500 `hash
//! collision`, and the client goes to the next keepstore (`keep/06-put-over-corrupt`).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use md5::{Digest, Md5};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::Keepstore;
use super::hash::BlockHash;
use super::request::{Body, Error};
use super::response::Response;
use super::volume::{BLOCK_SIZE, Comparison, NewBlock};

/// Pieces between the socket and the thread that hashes: enough to keep both busy, 2 MiB.
const AHEAD: usize = 8;
/// What is read away of a body that is too large, so that the client gets to read the answer: as much as two blocks.
const TOO_LARGE_BUT_READ: u64 = 2 * BLOCK_SIZE;

/// What is asked for.
pub struct Upload {
    /// The hash in the path.
    pub hash: BlockHash,
    /// Storage classes wanted; empty: any volume will do.
    pub classes: Vec<String>,
    /// For whom the locator in the answer is signed.
    pub token: Option<String>,
}

impl Upload {
    /// Reads the classes as clients send them: separated by commas, with or without blanks.
    pub fn classes(header: Option<&str>) -> Vec<String> {
        let names = header.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    }
}

/// Receives the body and stores it. Also returns the number of bytes received.
pub async fn receive(
    keepstore: &Arc<Keepstore>,
    upload: Upload,
    mut body: Body,
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
) -> Result<(Response, u64, bool), Error> {
    let too_large = || Response::text(413, "EOF\n");
    if let Some(announced) = body.announced().filter(|announced| *announced > BLOCK_SIZE) {
        let reusable = announced <= TOO_LARGE_BUT_READ && body.skip(stream, buffer, TOO_LARGE_BUT_READ).await?;
        return Ok((too_large(), 0, reusable));
    }
    let (pieces, inbox) = mpsc::channel(AHEAD);
    let storing = {
        let (keepstore, upload) = (Arc::clone(keepstore), upload);
        tokio::task::spawn_blocking(move || store(&keepstore, &upload, inbox))
    };
    let mut received = 0;
    while let Some(piece) = body.next(stream, buffer).await? {
        received += piece.len() as u64;
        if received > BLOCK_SIZE {
            drop(pieces);
            let reusable = body.skip(stream, buffer, TOO_LARGE_BUT_READ).await?;
            return Ok((too_large(), received, reusable));
        }
        // An error means that the thread has ended early: its answer says why, and the rest of the body is read away.
        let _ = pieces.send(Message::Piece(piece)).await;
    }
    let _ = pieces.send(Message::End).await;
    let response = storing.await.unwrap_or_else(|error| {
        tracing::error!(service = keepstore.name, %error, "the thread that stores a block failed");
        Response::text(500, "internal error\n")
    });
    Ok((response, received, true))
}

/// What goes to the storing thread. The end is said, not guessed from a closed channel: a channel also closes when the
/// client has gone away in the middle.
enum Message {
    Piece(Bytes),
    End,
}

/// What is done with the body on one volume.
enum Sink<'volume> {
    Compare(usize, Comparison),
    Write(usize, NewBlock<'volume>),
}

fn store(keepstore: &Keepstore, upload: &Upload, mut inbox: mpsc::Receiver<Message>) -> Response {
    let mut failures = Failures::default();
    let mut sinks = open_sinks(keepstore, upload, &mut failures);
    let mut hasher = Md5::new();
    let mut size = 0;
    loop {
        match inbox.blocking_recv() {
            Some(Message::Piece(piece)) => {
                size += piece.len() as u64;
                hasher.update(&piece);
                sinks.retain_mut(|sink| {
                    let (volume, fed) = match sink {
                        Sink::Compare(volume, comparison) => (*volume, comparison.update(&piece)),
                        Sink::Write(volume, block) => (*volume, block.write(&piece)),
                    };
                    fed.map_err(|error| failures.note(keepstore, volume, &error)).is_ok()
                });
            }
            Some(Message::End) => break,
            // The client is gone: nobody reads the answer, and dropping the sinks removes what they have written.
            None => return Response::empty(499),
        }
    }
    let hash = BlockHash(hasher.finalize().into());
    if hash != upload.hash {
        let text = format!("content hash {hash} did not match specified locator {}\n", upload.hash);
        return Response::text(400, text);
    }
    let mut stored = Vec::new();
    for sink in sinks {
        let (volume, identity) = match sink {
            Sink::Compare(volume, comparison) => match comparison.finish() {
                Ok(true) => (volume, keepstore.volumes[volume].touch(hash)),
                Ok(false) => {
                    let path = keepstore.volumes[volume].path(hash);
                    tracing::error!(service = keepstore.name, path = %path.display(), "a stored block differs from its upload");
                    return Response::text(500, "hash collision\n");
                }
                Err(error) => (volume, Err(error)),
            },
            Sink::Write(volume, block) => (volume, block.commit().map(Some)),
        };
        match identity {
            Ok(Some(identity)) => {
                keepstore.digests.remember(identity, hash);
                stored.push(volume);
            }
            Ok(None) => failures.note(keepstore, volume, &io::Error::from(io::ErrorKind::NotFound)),
            Err(error) => failures.note(keepstore, volume, &error),
        }
    }
    if stored.is_empty() {
        return failures.response();
    }
    let mut replicas = 0;
    let mut confirmed = BTreeMap::<&str, u32>::new();
    for volume in stored.iter().map(|volume| &keepstore.volumes[*volume]) {
        replicas += volume.replication;
        for class in &volume.storage_classes {
            *confirmed.entry(class).or_default() += volume.replication;
        }
    }
    let confirmed: Vec<_> = confirmed.iter().map(|(class, copies)| format!("{class}={copies}")).collect();
    let locator = keepstore.signed(hash, size, upload.token.as_deref());
    Response::text(200, format!("{locator}\n"))
        .with("X-Keep-Replicas-Stored", replicas.to_string())
        .with("X-Keep-Storage-Classes-Confirmed", confirmed.join(", "))
}

/// Chooses volumes: those that have the block first, then new ones, until every class has one (without classes: until
/// there is one).
fn open_sinks<'store>(keepstore: &'store Keepstore, upload: &Upload, failures: &mut Failures) -> Vec<Sink<'store>> {
    let mut missing: Vec<&str> = upload.classes.iter().map(String::as_str).collect();
    let mut satisfied = false;
    let mut sinks = Vec::new();
    let order = keepstore.rendezvous(upload.hash);
    for write in [false, true] {
        for index in order.iter().copied() {
            let volume = &keepstore.volumes[index];
            let taken = sinks
                .iter()
                .any(|sink| matches!(sink, Sink::Compare(taken, _) | Sink::Write(taken, _) if *taken == index));
            let wanted = if upload.classes.is_empty() {
                !satisfied
            } else {
                missing.iter().any(|class| volume.storage_classes.iter().any(|have| have == class))
            };
            if taken || !wanted {
                continue;
            }
            let sink = if write {
                match volume.is_full() {
                    Ok(false) => volume.create(upload.hash).map(|block| Some(Sink::Write(index, block))),
                    Ok(true) => Ok(None),
                    Err(error) => Err(error),
                }
            } else {
                volume.block(upload.hash).map(|file| file.map(|file| Sink::Compare(index, Comparison::new(file))))
            };
            match sink {
                Ok(Some(sink)) => {
                    sinks.push(sink);
                    satisfied = true;
                    missing.retain(|class| !volume.storage_classes.iter().any(|have| have == class));
                }
                Ok(None) => {}
                Err(error) => failures.note(keepstore, index, &error),
            }
        }
    }
    sinks
}

/// What went wrong on the volumes: decides between "full" and "broken" when nothing could be stored.
#[derive(Default)]
struct Failures {
    broken: bool,
}

impl Failures {
    fn note(&mut self, keepstore: &Keepstore, index: usize, error: &io::Error) {
        let volume = &keepstore.volumes[index];
        tracing::error!(service = keepstore.name, volume = %volume.root().display(), %error, "cannot store a block");
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            if let Err(error) = volume.remember_full() {
                tracing::warn!(volume = %volume.root().display(), %error, "cannot mark a volume as full");
            }
        } else {
            self.broken = true;
        }
    }

    fn response(&self) -> Response {
        if self.broken {
            Response::text(503, "volume unavailable\n")
        } else {
            Response::text(507, "insufficient storage\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_classes_are_read_with_and_without_blanks() {
        assert_eq!(Upload::classes(Some("default, special,,x ")), ["default", "special", "x"]);
        assert!(Upload::classes(None).is_empty() && Upload::classes(Some(" ")).is_empty());
    }
}
