//! Why a request is refused, with the controller's status and wording (`golden/replace_files/03-rf-err-*`, `03-rs-err-*`).
//!
//! Clients look at the status: the Python SDK repeats what is answered with 500 ten times, though none of these will ever
//! succeed, which is why a client should find them here before it sends.

use super::reader::ReadError;
use crate::keep::quote::quoted;

/// A refusal, or a source that could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error<E> {
    /// The request itself is refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What the resolver said. The controller passes on its answer, 404 mostly.
    #[error("the source cannot be read")]
    Source(E),
}

/// A refusal by rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message says what each is")]
pub enum Refusal {
    #[error(
        "invalid request: attrs['manifest_text'] was provided, but would not be used because it is not referenced by any 'replace_files' entry"
    )]
    UnusedManifestText,
    #[error("invalid replace_files target: {}", quoted(.target))]
    InvalidTarget { target: String },
    #[error("replace_files: cannot operate on target {} inside non-empty target {}", quoted(.target), quoted(.outer))]
    TargetInsideTarget { target: String, outer: String },
    #[error(
        "invalid source {} for replace_files[{}]: must be \"\" or \"SRC\" or \"SRC/path\" where SRC is \"current\", \"manifest_text\", or a portable data hash", quoted(.from), quoted(.target)
    )]
    InvalidSource { from: String, target: String },
    #[error("replace_files: nonexistent source {}", quoted(.from))]
    MissingInCurrent { from: String },
    #[error("error getting snapshot of {} from {}: {reason}", quoted(.path), quoted(.from))]
    MissingInSource { path: String, from: String, reason: &'static str },
    #[error("replace_files: malformed manifest_text: {error}")]
    MalformedManifestText { error: ReadError },
    /// The stored text, or that of a source: only a request with the target `/`, or a whole manifest, mends it.
    #[error("malformed manifest_text: {error}")]
    MalformedCurrent { error: ReadError },
    #[error("internal error: current[current] == nil")]
    CurrentWithoutSlash,
    #[error("{from}: {reason}")]
    BadCurrentPath { from: String, reason: &'static str },
    #[error("error splicing snapshot onto path {}: open {target}: not a directory", quoted(.target))]
    TargetUnderFile { target: String },
    /// The file stands further up than the directory of the target.
    #[error("error creating parent dirs for {}: not a directory", quoted(.target))]
    ParentUnderFile { target: String },
    #[error(
        "error splicing snapshot onto path \"/\": cannot use Splice to replace a top-level directory with a file: invalid operation"
    )]
    FileOntoRoot,
    /// The name that the controller's file systems keep for themselves.
    #[error("error splicing snapshot onto path {}: invalid operation", quoted(.target))]
    SpecialName { target: String },
    #[error("RemoveAll({target}): not a directory")]
    RemoveUnderFile { target: String },
    #[error("replace_segments: mismatched length: replacing segment length {old} with segment length {new}")]
    SegmentLength { old: u64, new: u64 },
    #[error("replace_segments: invalid replacement: locator has no size hint")]
    SegmentWithoutSize,
    #[error("replace_segments: invalid replacement: offset {offset} + length {length} > block size {size}")]
    SegmentBeyondBlock { offset: u64, length: u64, size: u64 },
}

impl Refusal {
    /// The status of the controller's answer: 400 or 500.
    pub fn status(&self) -> u16 {
        match self {
            Refusal::MalformedCurrent { .. }
            | Refusal::CurrentWithoutSlash
            | Refusal::BadCurrentPath { .. }
            | Refusal::TargetUnderFile { .. }
            | Refusal::FileOntoRoot
            | Refusal::SpecialName { .. }
            | Refusal::RemoveUnderFile { .. } => 500,
            _ => 400,
        }
    }
}
