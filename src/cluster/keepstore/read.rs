//! `GET` and `HEAD` of a block.
//!
//! The order of checks is the real keepstore's (`keep/06-get-*`): form of the locator, size hint, signature, and then
//! the volumes in rendezvous order. A file of the right size goes out only if its MD5 is right; a damaged one is 502.
//! A real keepstore streams before it has checked, so there a large damaged block is a short 200 instead: clients must
//! stand both. Where the hint and the file differ in size it is as recorded: too small a hint gets an empty 200, too
//! large a one (or a file cut short on the disk) a body that ends early.

use std::fs::File;
use std::sync::Arc;

use super::Keepstore;
use super::hash::{self, BlockHash};
use super::response::{BYTES, Response};
use super::volume::{BLOCK_SIZE, Identity};

/// What to answer to a read.
pub enum Answer {
    /// No block: an error, or an answer without a body.
    Plain(Response),
    /// The first `send` bytes of a file, under a head that announces `announce` bytes.
    Block { response: Response, file: Arc<File>, announce: u64, send: u64 },
}

/// The parts of a locator that a keepstore looks at.
#[derive(Debug, PartialEq, Eq)]
struct Hints {
    hash: BlockHash,
    size: Option<u64>,
    remote: bool,
    signed: bool,
}

/// Reads `<hash>[+<size>][+<hint>…]`. `None`: an invalid locator.
fn parse(locator: &str) -> Option<Hints> {
    let mut parts = locator.split('+');
    let mut hints = Hints { hash: hash::parse(parts.next()?)?, size: None, remote: false, signed: false };
    for (index, part) in parts.enumerate() {
        match part.as_bytes().first()? {
            b'0'..=b'9' if index == 0 => hints.size = Some(part.parse().ok().filter(|size| *size <= BLOCK_SIZE)?),
            b'0'..=b'9' => return None,
            b'A' => hints.signed = true,
            b'R' => hints.remote = true,
            _ => {}
        }
    }
    Some(hints)
}

/// Answers `GET /<locator>`, or `HEAD` when `head` is set.
pub async fn block(keepstore: &Arc<Keepstore>, locator: &str, token: Option<&str>, head: bool) -> Answer {
    let refuse = |status: u16, text: &str| {
        Answer::Plain(Response::text(status, format!("{text}\n")).with("Vary", "X-Keep-Signature"))
    };
    let Some(hints) = parse(locator) else { return refuse(400, "invalid locator") };
    if !head && hints.size.unwrap_or(0) == 0 && hints.hash != BlockHash::EMPTY {
        // Without a size nobody could tell that an answer was cut short.
        return refuse(405, "method not allowed");
    }
    if hints.remote && !hints.signed {
        return refuse(400, "remote cluster not configured");
    }
    if let Err((status, text)) = keepstore.permits(locator, token) {
        return refuse(status, text);
    }
    let ok = |file: Arc<File>, announce: u64, send: u64| {
        let response = Response { content_type: (!head && announce > 0).then_some(BYTES), ..Response::empty(200) };
        Answer::Block { response: response.with("Vary", "X-Keep-Signature"), file, announce, send }
    };
    if hints.hash == BlockHash::EMPTY {
        return Answer::Plain(Response::empty(200).with("Vary", "X-Keep-Signature"));
    }
    let mut otherwise = refuse(404, "file does not exist");
    for volume in keepstore.rendezvous(hints.hash) {
        let looking = {
            let (keepstore, hash) = (Arc::clone(keepstore), hints.hash);
            tokio::task::spawn_blocking(move || {
                let Some(file) = keepstore.volumes[volume].block(hash)? else { return Ok(None) };
                let identity = Identity::of(&file)?;
                Ok::<_, std::io::Error>(Some((Arc::new(file), identity)))
            })
        };
        let found = looking.await.map_err(std::io::Error::other).and_then(|found| found);
        let (file, identity) = match found {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            Err(error) => {
                tracing::error!(service = keepstore.name, hash = %hints.hash, %error, "cannot open a block");
                otherwise = refuse(500, "cannot open the block");
                continue;
            }
        };
        let hint = hints.size.filter(|_| !head);
        if hint.is_some_and(|hint| hint < identity.size) {
            return Answer::Plain(Response::empty(200).with("Vary", "X-Keep-Signature"));
        }
        if let Some(hint) = hint.filter(|hint| *hint > identity.size) {
            otherwise = ok(file, hint, identity.size);
            continue;
        }
        match keepstore.digests.of(&file, identity).await {
            Ok(hash) if hash == hints.hash => return ok(file, identity.size, identity.size),
            Ok(hash) => {
                tracing::error!(
                    service = keepstore.name,
                    path = %keepstore.volumes[volume].path(hints.hash).display(),
                    found = %hash,
                    "a block is damaged on the disk: restore it from another copy, or delete the file"
                );
                otherwise = refuse(502, "checksum mismatch in stored data");
            }
            Err(error) => {
                tracing::error!(service = keepstore.name, hash = %hints.hash, %error, "cannot read a block");
                otherwise = refuse(502, "cannot read the block");
            }
        }
    }
    otherwise
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_read_and_bad_locators_refused() {
        let foo = "acbd18db4cc2f85cedef654fccc4a4d8";
        let hints = |rest: &str| parse(&format!("{foo}{rest}"));
        let hash = hash::parse(foo).unwrap();
        assert_eq!(hints(""), Some(Hints { hash, size: None, remote: false, signed: false }));
        assert_eq!(hints("+3+Kzzzzz+Ax@y"), Some(Hints { hash, size: Some(3), remote: false, signed: true }));
        assert_eq!(hints("+3+Raaaaa-x@y"), Some(Hints { hash, size: Some(3), remote: true, signed: false }));
        assert_eq!(hints("+Ax@y"), Some(Hints { hash, size: None, remote: false, signed: true }));
        for bad in ["x", "+", "+3+", "+3+4", "+Kzzzzz+3", "++3", "+99999999999999999999", "+67108865"] {
            assert_eq!(hints(bad), None, "{bad}");
        }
    }
}
