//! What signals do to this process that the kernel or the standard library has decided otherwise.

use nix::sys::signal::{SigHandler, Signal, signal};

/// For a command that does nothing but print: it ends quietly when nobody reads on, as commands of a shell do. The standard library
/// ignores the signal for that, which a mount or a cluster needs: they are not to end with whoever started them.
pub fn end_with_the_reader() {
    set(Signal::SIGPIPE, SigHandler::SigDfl);
}

/// Beyond `ulimit -f` a write fails, and whoever waits for it is told; the kernel's default is to end the process, and with it what
/// all others do. Programs that are started afterwards inherit it.
pub fn survive_the_limit_on_files() {
    set(Signal::SIGXFSZ, SigHandler::SigIgn);
}

/// Undoes [`survive_the_limit_on_files`]. May be called between fork and exec.
pub fn end_at_the_limit_on_files() {
    set(Signal::SIGXFSZ, SigHandler::SigDfl);
}

fn set(number: Signal, handler: SigHandler) {
    // SAFETY: no code of ours is run by either of the two. It can fail for a number only that is no signal.
    let _ = unsafe { signal(number, handler) };
}
