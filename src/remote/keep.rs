//! Blocks: getting them from, and bringing them to, the Keep services of a cluster (protocol.md 7 and 8).
//!
//! [`Keep`] is what the rest of the program sees; [`HttpKeep`] speaks HTTP. Above it nobody knows that there are several
//! services, in which order they are asked ([`services`]), or that some of them were down: a block comes whole and checked
//! ([`receive`]), or there is an error that tells which of the three kinds it is: nowhere to be found, refused for its
//! signature (a fresh locator may help), or not to be had now.

use crate::keep::Locator;
use crate::remote::error::Result;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeMap;

mod answer;
pub mod client;
mod known;
mod receive;
mod send;
pub mod services;
mod upload;

pub use client::{HttpKeep, Traffic};

/// Where blocks are. Object-safe, so that tests can put another in its place.
#[async_trait]
pub trait Keep: Send + Sync {
    /// The whole block, its length and hash checked. The locator needs a size and, where the cluster signs, a valid
    /// signature.
    ///
    /// Errors: `BlockNotFound`, `BlockRefused` (renew the locator and try again), `BlockUnreadable`, `Locator`,
    /// `NoKeepServices`. Waits at most as long as the implementation was told to; dropping the future cancels it.
    async fn get(&self, locator: &Locator) -> Result<Bytes>;

    /// Whether the locator gives the block, without its bytes as far as that is possible. Errors: those of [`Keep::get`].
    async fn check(&self, locator: &Locator) -> Result<()> {
        self.get(locator).await.map(drop)
    }

    /// Stores a block of at most 64 MiB as often and in such classes as asked for. Errors: `BlockUnwritable`,
    /// `NoKeepServices`. Storing a block twice does no harm.
    async fn put(&self, block: Bytes, request: &PutRequest) -> Result<Stored>;
}

/// How a block is to be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutRequest {
    /// Copies; `None` is the default of the cluster.
    pub replicas: Option<u32>,
    /// Each of these must have that many copies; empty is the default of the cluster.
    pub storage_classes: Vec<String>,
}

/// How a block was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Signed for our token, ready for a manifest.
    pub locator: Locator,
    /// Copies, as the services count them.
    pub replicas: u32,
    /// Copies per storage class; empty where services do not tell.
    pub storage_classes: BTreeMap<String, u32>,
}
