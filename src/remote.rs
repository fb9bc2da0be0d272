//! The network: everything that leaves this process for an Arvados cluster goes through here.
//!
//! [`settings`] finds out which cluster and who we are; [`network`] makes of it what all connections share (TLS trust,
//! proxies, the limit on connections); [`api`] asks the API server for records, [`keep`] moves blocks and [`events`]
//! hears of changes. `api` and `keep` are traits, so that a test can put a fake or a failing one in the place of the
//! HTTP client; nobody above this module knows that there is HTTP.
//!
//! What must stay true here:
//!
//! * **Every wait has a deadline.** Connecting, waiting for an answer, receiving a body, the pause before a repetition:
//!   a network that dies silently ends in an [`Error`], never in a hang. Dropping a future cancels what it does.
//! * **Nothing is repeated blindly.** Requests that only read are repeated after temporary failures; those that change
//!   something only where the server cannot have applied them, unless the caller asks for more ([`retry::Repeat`]).
//! * **Secrets stay here.** The token is a [`token::Token`], which never prints; messages of a server are cleared of
//!   tokens and signatures before they become part of an error; URLs appear in messages without their query.
//! * **Answers are not trusted.** They are parsed into our types or refused; a block is checked for length and hash
//!   before a byte of it is handed out.

pub mod api;
pub mod error;
pub mod events;
pub mod keep;
pub mod network;
pub mod retry;
pub mod settings;
pub mod token;
pub mod trust;

pub use error::Error;
pub use network::Network;
pub use settings::Settings;
pub use token::Token;
