//! What the answer of one Keep service means for the block (protocol.md 7, 7.4, 8.4).

use std::fmt;

/// Why a service did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// It answered with this status and text.
    Status { status: u16, text: String },
    /// A keepproxy does not accept our token: it asks the API server, as no keepstore does, and answers 403 (protocol.md 7.4; a
    /// signature is 422 to it).
    Token { text: String },
    /// It could not be reached, or the connection broke.
    Unreachable { problem: String },
    /// Too long without a byte, or too few of them.
    Slow { problem: String },
    /// What it sent is not the block: wrong length or wrong hash.
    Damaged { problem: String },
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Status { status, text } if text.is_empty() => write!(formatter, "{status}"),
            Problem::Status { status, text } => write!(formatter, "{status} {text}"),
            Problem::Token { text } => write!(formatter, "403 {text}"),
            Problem::Unreachable { problem } | Problem::Slow { problem } | Problem::Damaged { problem } => {
                formatter.write_str(problem)
            }
        }
    }
}

/// Whether asking the same service again for the same block makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It does not have the block.
    Missing,
    /// It does not accept the locator's signature, or our token.
    Refused,
    /// It will not do it, whatever happens.
    Permanent,
    /// It may do it later.
    Temporary,
    /// Its copy is damaged: once more, in case it was the way, and never again after that.
    Damaged,
}

impl Problem {
    /// What it means for reading a block.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Problem::Status { status, .. } => match status {
                404 | 410 => Verdict::Missing,
                // 400 and 401 from keepstore, 422 from keepproxy.
                400 | 401 | 403 | 422 => Verdict::Refused,
                // Data that the server itself found damaged: its own retries are behind it.
                502 => Verdict::Damaged,
                status if is_temporary(*status) => Verdict::Temporary,
                _ => Verdict::Permanent,
            },
            // Asking for a fresh locator is how the API server gets to say what is wrong with the token.
            Problem::Token { .. } => Verdict::Refused,
            Problem::Unreachable { .. } | Problem::Slow { .. } => Verdict::Temporary,
            Problem::Damaged { .. } => Verdict::Damaged,
        }
    }

    /// Whether writing to the same service may succeed later.
    pub(super) fn may_write_later(&self) -> bool {
        match self {
            Problem::Status { status, .. } => is_temporary(*status),
            Problem::Unreachable { .. } | Problem::Slow { .. } => true,
            Problem::Token { .. } | Problem::Damaged { .. } => false,
        }
    }
}

/// The temporary statuses of all clients (protocol.md 8.4), with 429 as Go has it, and without 507: a service without
/// room, or without the wanted storage class, stays so for this block.
fn is_temporary(status: u16) -> bool {
    matches!(status, 408 | 409 | 423 | 429 | 500 | 502..=506 | 508..=599)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_of_keepstore_and_keepproxy_has_its_meaning() {
        let verdict = |status| Problem::Status { status, text: String::new() }.verdict();
        for (status, expected) in [
            (400, Verdict::Refused),
            (401, Verdict::Refused),
            (403, Verdict::Refused),
            (422, Verdict::Refused),
            (404, Verdict::Missing),
            (410, Verdict::Missing),
            (405, Verdict::Permanent),
            (413, Verdict::Permanent),
            (507, Verdict::Permanent),
            (408, Verdict::Temporary),
            (429, Verdict::Temporary),
            (500, Verdict::Temporary),
            (502, Verdict::Damaged),
            (503, Verdict::Temporary),
        ] {
            assert_eq!(verdict(status), expected, "{status}");
        }
        assert!(!Problem::Status { status: 507, text: String::new() }.may_write_later());
        assert!(Problem::Status { status: 503, text: String::new() }.may_write_later());
    }
}
