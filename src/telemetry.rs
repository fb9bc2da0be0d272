//! What the process says about itself: the set-up of `tracing`.
//!
//! Everything goes to stderr (or a file that was asked for), one line an event, lower case, with fields; that of a mount goes
//! elsewhere when it lets go of its terminal ([`go_to_background`]). Tokens and signatures never get here: types that hold them print as `[hidden]` under `Debug`, and URLs are logged without query.
//! `fuse3` opens a span per request; at level info that alone costs a fifth of the small reads (`fuse.md`), so its target
//! is off unless somebody asks for it by name in `ARVADOS_LOG`.

use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

mod background;

pub use background::Background;

/// Where the log goes instead of stderr.
static BACKGROUND: OnceLock<Background> = OnceLock::new();

/// Environment variable with a filter in `tracing-subscriber`'s syntax; wins over the level of the command line.
pub const FILTER_VARIABLE: &str = "ARVADOS_LOG";

/// Starts logging for the whole process, to `file` (appended) or stderr, at `level` (`error`, `warn`, `info`, `debug`).
///
/// A second call does nothing, so that tests may call it too. Errors: only those of opening `file`.
pub fn start(level: &str, file: Option<&Path>) -> std::io::Result<()> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(level)).with_target(true);
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

/// As [`start`], with lines of the form that `arv-mount` writes and its callers parse (arv-mount.md section 5):
/// `YYYY-MM-DD HH:MM:SS logger[pid] LEVEL: message`, in local time.
pub fn start_as_arv_mount(level: &str, file: Option<&Path>) -> std::io::Result<()> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(level)).with_ansi(false).event_format(PythonFormat);
    let result = match file {
        Some(path) => {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
            builder.with_writer(std::sync::Mutex::new(file)).try_init()
        }
        None => builder.with_writer(Standard).try_init(),
    };
    drop(result);
    Ok(())
}

/// From now on what would go to stderr as [`start_as_arv_mount`] has set it up goes there. A second call does nothing.
pub fn go_to_background(background: Background) {
    let _ = BACKGROUND.set(background);
}

/// Stderr, or what has taken its place.
struct Standard;

impl<'a> MakeWriter<'a> for Standard {
    type Writer = Destination;

    fn make_writer(&'a self) -> Destination {
        Destination { level: Level::INFO }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Destination {
        Destination { level: *metadata.level() }
    }
}

/// Where one line goes.
struct Destination {
    level: Level,
}

impl Write for Destination {
    /// The whole line: that is how the subscriber writes.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        match BACKGROUND.get() {
            Some(background) => background.log(self.level, line, TIME_LENGTH).map(|()| line.len()),
            None => std::io::stderr().write(line),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

fn filter(level: &str) -> EnvFilter {
    let filter = std::env::var(FILTER_VARIABLE).ok().filter(|text| !text.is_empty());
    let filter =
        filter.unwrap_or_else(|| format!("{level},fuse3=off,hyper=warn,rustls=warn,h2=warn,actix_server=warn"));
    EnvFilter::new(filter)
}

/// `YYYY-MM-DD HH:MM:SS` and a space.
const TIME_LENGTH: usize = 20;

/// The format of Python's `logging` as `arv-mount` sets it up.
struct PythonFormat;

impl<S, N> FormatEvent<S, N> for PythonFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let metadata = event.metadata();
        let level = match *metadata.level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            _ => "DEBUG",
        };
        let time = chrono::Local::now().format("%Y-%m-%d %H:%M:%S");
        let logger = metadata.target().replace("::", ".");
        write!(writer, "{time} {logger}[{}] {level}: ", std::process::id())?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
