//! What the process says about itself: the set-up of `tracing`.
//!
//! Everything goes to stderr (or a file that was asked for), one line an event, lower case, with fields. Tokens and
//! signatures never get here: types that hold them print as `[hidden]` under `Debug`, and URLs are logged without query.
//! `fuse3` opens a span per request; at level info that alone costs a fifth of the small reads (`fuse.md`), so its target
//! is off unless somebody asks for it by name in `ARVADOS_LOG`.

use std::path::Path;
use tracing_subscriber::EnvFilter;

/// Environment variable with a filter in `tracing-subscriber`'s syntax; wins over the level of the command line.
pub const FILTER_VARIABLE: &str = "ARVADOS_LOG";

/// Starts logging for the whole process, to `file` (appended) or stderr, at `level` (`error`, `warn`, `info`, `debug`).
///
/// A second call does nothing, so that tests may call it too. Errors: only those of opening `file`.
pub fn start(level: &str, file: Option<&Path>) -> std::io::Result<()> {
    let filter = std::env::var(FILTER_VARIABLE).ok().filter(|text| !text.is_empty());
    let filter =
        filter.unwrap_or_else(|| format!("{level},fuse3=off,hyper=warn,rustls=warn,h2=warn,actix_server=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter)).with_target(true);
    let result = match file {
        Some(path) => {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
            builder.with_ansi(false).with_writer(std::sync::Mutex::new(file)).try_init()
        }
        None => {
            let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(colour).with_writer(std::io::stderr).try_init()
        }
    };
    drop(result);
    Ok(())
}
