//! I/O on behalf of an actor: it runs on the network runtime, its end comes back to the actor.

use crate::actors::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// A task on another runtime that ends when nobody waits for it any more.
#[derive(Debug)]
pub struct Work<T> {
    task: JoinHandle<Result<T, Error>>,
    what: String,
}

impl<T: Send + 'static> Work<T> {
    /// Starts `future` on `runtime`; `what` is for the error message if it panics.
    pub fn start(
        runtime: &Handle,
        what: impl Into<String>,
        future: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Work<T> {
        Work { task: runtime.spawn(future), what: what.into() }
    }
}

impl<T> Future for Work<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match Pin::new(&mut self.task).poll(context) {
            Poll::Ready(Ok(result)) => Poll::Ready(result),
            // Nobody but us ends it early, and then nobody waits. So its runtime ends, and the process with that: this is no failure
            // to speak of.
            Poll::Ready(Err(error)) if error.is_cancelled() => Poll::Pending,
            Poll::Ready(Err(_)) => Poll::Ready(Err(Error::Failed(std::mem::take(&mut self.what)))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
