//! Sending a block: in slices of it, watched for whether they go.
//!
//! The connection takes a slice when it has room, so what it took is on its way, but for what the kernel holds. A service that
//! takes no more, or takes everything and never answers, is given up long before the time that a slow network may need
//! for a whole block, and whoever waits for an upload sees it move.

use crate::remote::keep::answer::Problem;
use crate::remote::keep::client::{CONNECT_LONGEST, Traffic};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use reqwest::Body;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// A body may take as long as this many bytes a second allow (as in reading).
const LOWEST_SPEED: u64 = 32 << 10;
/// What a connection takes at a time: some seconds at the lowest speed, and nothing to one that sends a gigabyte a second.
const SLICE: usize = 128 << 10;
/// What the kernel takes off a connection's hands before the peer has any of it: the default limit of `tcp_wmem`.
const KERNEL_BUFFER: u64 = 4 << 20;
/// Between two slices: enough for a kernel that asks for more only when a third of its buffer is free, which takes 42 s at the
/// lowest speed. And for the answer after the last byte: the service writes the block to disk, a proxy to several services.
const SILENCE: Duration = Duration::from_secs(60);

/// How long a service may keep us waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub silence: Duration,
    /// Before the first slice comes the connection, which has a limit of its own.
    pub connection: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { silence: SILENCE, connection: CONNECT_LONGEST }
    }
}

impl Patience {
    /// For a whole request with a body of `size` bytes.
    pub(super) fn in_all(&self, size: usize) -> Duration {
        self.connection + self.silence + transfer(size as u64)
    }

    /// For the answer, from when the connection has taken the last slice.
    fn answer(&self, size: usize) -> Duration {
        self.silence + transfer(KERNEL_BUFFER.min(size as u64))
    }
}

fn transfer(bytes: u64) -> Duration {
    Duration::from_secs(bytes / LOWEST_SPEED)
}

/// How much of a body is taken.
pub(super) struct Sending {
    size: usize,
    taken: watch::Receiver<usize>,
}

/// `block` as the body of a request. Its length has to be told in a header.
pub(super) fn body(block: Bytes, traffic: Arc<Traffic>) -> (Body, Sending) {
    let size = block.len();
    let (tell, taken) = watch::channel(0);
    (Body::wrap_stream(slices(block, traffic, tell)), Sending { size, taken })
}

fn slices(
    block: Bytes,
    traffic: Arc<Traffic>,
    tell: watch::Sender<usize>,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold((block, tell), move |(mut rest, tell)| {
        let slice = rest.split_to(SLICE.min(rest.len()));
        traffic.offered_bytes.fetch_add(slice.len() as u64, Ordering::Relaxed);
        tell.send_modify(|taken| *taken += slice.len());
        std::future::ready((!slice.is_empty()).then_some((Ok(slice), (rest, tell))))
    })
}

impl Sending {
    /// Ends when nothing has moved for too long.
    pub(super) async fn stall(mut self, patience: Patience) -> Problem {
        loop {
            let (taken, size) = (*self.taken.borrow_and_update(), self.size);
            let limit = match taken {
                0 => patience.connection + patience.silence,
                taken if taken == size => patience.answer(size),
                _ => patience.silence,
            };
            match timeout(limit, self.taken.changed()).await {
                Ok(Ok(())) => continue,
                // The body is gone: the end of the request is a matter of its own limits.
                Ok(Err(_)) => tokio::time::sleep(limit).await,
                Err(_) => {}
            }
            let seconds = limit.as_secs();
            let problem = match taken == size {
                true => format!("no answer within {seconds} s after all {size} bytes"),
                false => format!("nothing moved for {seconds} s after {taken} of {size} bytes"),
            };
            return Problem::Slow { problem };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    #[tokio::test]
    async fn slices_are_the_block_itself_and_are_counted_as_they_are_taken() {
        let block = Bytes::from(vec![7; 2 * SLICE + 5]);
        let traffic = Arc::new(Traffic::default());
        let (tell, taken) = watch::channel(0);
        let mut slices = std::pin::pin!(slices(block.clone(), traffic.clone(), tell));
        let mut at = 0;
        while let Some(Ok(slice)) = slices.next().await {
            assert_eq!(slice.as_ptr(), block[at..].as_ptr(), "no copy");
            at += slice.len();
            assert_eq!((*taken.borrow(), traffic.offered_bytes.load(Ordering::Relaxed)), (at, at as u64));
        }
        assert_eq!(at, block.len());
    }
}
