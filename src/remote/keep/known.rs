//! The list of services as it was last fetched.
//!
//! Every read and every upload begins with this list, and goes on with the last one as long as there is one: only who failed
//! with it waits for another, and not for long. So an API that does not answer holds up nobody whose services are well. One fetch is under way
//! at a time, and its result, be it a failure, is that of all who waited for it; the API never waits for Keep.

use crate::remote::error::{Error, Result};
use crate::remote::keep::services::ServiceList;
use arc_swap::ArcSwapOption;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// See the module's essay.
#[derive(Default)]
pub(super) struct KnownServices {
    current: ArcSwapOption<Fetched>,
    /// Held while the list is fetched: when and how that last failed.
    failure: Mutex<Option<(Instant, Error)>>,
}

struct Fetched {
    list: Arc<ServiceList>,
    at: Instant,
}

impl KnownServices {
    /// The list; not older than `since` if that can be had by `fetch`.
    pub(super) async fn get(
        &self,
        since: Option<Instant>,
        fetch: impl Future<Output = Result<ServiceList>>,
    ) -> Result<Arc<ServiceList>> {
        if let Some(list) = self.published(since) {
            return Ok(list);
        }
        let asked = since.unwrap_or_else(Instant::now);
        let mut failure = self.failure.lock().await;
        if let Some(list) = self.published(since) {
            return Ok(list);
        }
        let error = match &*failure {
            Some((at, error)) if *at >= asked => error.clone(),
            _ => match fetch.await {
                Ok(list) => {
                    let list = Arc::new(list);
                    self.current.store(Some(Arc::new(Fetched { list: list.clone(), at: Instant::now() })));
                    return Ok(list);
                }
                Err(error) => {
                    *failure = Some((Instant::now(), error.clone()));
                    error
                }
            },
        };
        let last = self.published(None).ok_or_else(|| error.clone())?;
        tracing::warn!(%error, "cannot refresh the list of keep services, using the last one");
        Ok(last)
    }

    fn published(&self, since: Option<Instant>) -> Option<Arc<ServiceList>> {
        let current = self.current.load();
        let current = current.as_ref().filter(|current| since.is_none_or(|since| current.at >= since))?;
        Some(current.list.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::future::{pending, ready};

    fn list() -> Result<ServiceList> {
        Ok(ServiceList::from_urls(&[]))
    }

    async fn never() -> Result<ServiceList> {
        unreachable!("there is nothing to fetch")
    }

    #[tokio::test]
    async fn refresh_without_an_answer_holds_up_nobody_who_has_a_list() {
        let known = KnownServices::default();
        known.get(None, async { list() }).await.expect("a list");
        let mut refresh = std::pin::pin!(known.get(Some(Instant::now()), pending()));
        assert!(refresh.as_mut().now_or_never().is_none());
        assert!(known.get(None, never()).now_or_never().is_some_and(|result| result.is_ok()));
    }

    #[tokio::test]
    async fn failure_to_refresh_is_that_of_all_who_waited_for_it() {
        let known = KnownServices::default();
        let since = Instant::now();
        let failure = || Error::NoKeepServices;
        assert!(known.get(Some(since), ready(Err(failure()))).await.is_err());
        assert!(known.get(Some(since), never()).await.is_err(), "there was none before");
        known.get(None, async { list() }).await.expect("a list");
        let since = Instant::now();
        assert!(known.get(Some(since), ready(Err(failure()))).await.is_ok(), "the last one");
        assert!(known.get(Some(since), never()).await.is_ok());
        assert!(known.get(Some(Instant::now()), async { list() }).await.is_ok(), "another try later");
    }
}
