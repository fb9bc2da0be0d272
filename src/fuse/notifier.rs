//! Telling the kernel that what it remembers is not true any more.
//!
//! Owns a duplicate of the session's `/dev/fuse` and one thread of the operating system, which is the only place where a
//! notification is written. Why not the crate's `Notify`: it forgets the name in its messages, and a message that the kernel
//! refuses ends the session (fuse.md, trap 1). Why a thread: the kernel takes locks for a notification and waits for them
//! uninterruptibly, and who holds them may be waiting for an answer of ours (traps 2 and 9). This thread may wait; the
//! session's thread goes on answering, so the wait ends.
//!
//! What must stay true:
//!
//! * No entry is invalidated while a request holds its directory, no page while a request holds it ([`Requests`]). Between that look
//!   and the write a request may still arrive. That is a delay as long as we answer; if we are killed in that moment, the
//!   guardian ends it.
//! * Waiting for an idle moment could take for ever when 16 programs read one file. So what takes no lock is done at once: the
//!   attributes of a file (offset −1 leaves its pages alone); the kernel drops the pages itself as soon as it sees another
//!   mtime or size, since the session runs with AUTO_INVAL_DATA. A directory that is not idle for [`PATIENCE`] costs the epoch
//!   (`FUSE_NOTIFY_INC_EPOCH`, Linux 6.16), which makes the kernel look up every name again and takes no lock either.
//!   Older kernels do not know it; there the names wait on.
//! * A name is made to expire, not thrown out (`FUSE_EXPIRE_ONLY`): what is still the same keeps its place in the kernel, with the
//!   working directories, open files and mounts below it. Kernels before 6.2 do not look at that flag and throw it out.
//! * The queue is bounded and coalesced: any number of changes to a node are one message. Who wants to know when what he told is
//!   written waits with [`FrontEnd::caught_up`], which does not wait for what is held up: he may be a request himself.
//! * The duplicate keeps the connection alive, so it is closed as soon as the session ends.
//!
//! Locks: `state` is held for look-ups and changes of the queue only, never during a write; nothing else is locked meanwhile.

use crate::fuse::requests::Requests;
use crate::vfs::{FrontEnd, Inode};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::{HashMap, HashSet};
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Codes of the messages, in place of an error (`fuse_kernel.h`, `enum fuse_notify_code`).
const INVALIDATE_INODE: i32 = 2;
const INVALIDATE_ENTRY: i32 = 3;
const INCREMENT_EPOCH: i32 = 8;

/// `fuse_kernel.h`: the entry has to be looked up again, no more.
const EXPIRE_ONLY: u32 = 1 << 0;

/// Length of `fuse_out_header`: length, code and a request number, which is 0 for notifications.
const HEADER: usize = 16;

/// Names that may wait. A name is at most 1 KiB, so this is at most 64 MiB, and a few MiB with usual names. Beyond it all
/// names are invalidated at once.
const MOST_NAMES: usize = 1 << 16;

/// How long the names of a directory wait for an idle moment.
const PATIENCE: Duration = Duration::from_secs(1);

/// How soon to look again whether what is held up may go: the end of a request wakes the thread earlier, mostly.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What waits for one inode.
#[derive(Debug)]
struct Pending {
    /// Attributes and content.
    node: bool,
    /// Its attributes are invalidated already, since the last change.
    attributes_done: bool,
    names: HashSet<Box<[u8]>>,
    since: Instant,
}

impl Default for Pending {
    fn default() -> Pending {
        Pending { node: false, attributes_done: false, names: HashSet::new(), since: Instant::now() }
    }
}

#[derive(Debug, Default)]
struct State {
    pending: HashMap<u64, Pending>,
    names: usize,
    /// Too many names: all of them are to be looked up again.
    everything: bool,
    /// How often anything was told.
    told: u64,
    is_closed: bool,
}

impl State {
    /// All names are to be looked up again, which says it for those that wait.
    fn expire_all(&mut self) {
        self.everything = true;
        self.names = 0;
        for pending in self.pending.values_mut() {
            pending.names = HashSet::new();
        }
        self.pending.retain(|_, pending| pending.node);
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    requests: Arc<Requests>,
    /// Up to which of what was told all is written that could be.
    written: watch::Sender<u64>,
}

impl Shared {
    fn new(requests: Arc<Requests>) -> Arc<Shared> {
        let (state, changed, written) = (Mutex::default(), Condvar::new(), watch::Sender::new(0));
        Arc::new(Shared { state, changed, requests, written })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in a critical section can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        if state.is_closed {
            return;
        }
        change(&mut state);
        state.told += 1;
        drop(state);
        self.changed.notify_one();
    }
}

/// The queue of notifications. Dropping it does not end its thread: [`Notifier::close`] does.
#[derive(Debug, Clone)]
pub struct Notifier {
    shared: Arc<Shared>,
}

impl Notifier {
    /// Starts the thread, which writes to `device` until [`Notifier::close`].
    pub fn start(device: OwnedFd, requests: Arc<Requests>) -> std::io::Result<Notifier> {
        let shared = Shared::new(requests);
        let mut writer = Writer { device, shared: shared.clone(), knows_epoch: true, reported: HashSet::new() };
        std::thread::Builder::new().name("notifier".into()).spawn(move || writer.run())?;
        Ok(Notifier { shared })
    }

    /// Ends the thread and closes its descriptor; what still waits is of no use any more. Does not wait.
    pub fn close(&self) {
        let mut state = self.shared.state();
        *state = State { is_closed: true, ..State::default() };
        drop(state);
        self.shared.written.send_replace(u64::MAX);
        self.shared.changed.notify_all();
    }
}

impl FrontEnd for Notifier {
    fn invalidate_entry(&self, parent: Inode, name: &[u8]) {
        self.shared.change(|state| {
            if state.names >= MOST_NAMES {
                state.expire_all();
            }
            let pending = state.pending.entry(parent.0).or_default();
            if pending.names.is_empty() {
                pending.since = Instant::now();
            }
            if pending.names.insert(name.into()) {
                state.names += 1;
            }
        });
    }

    fn invalidate_node(&self, inode: Inode) {
        self.shared.change(|state| {
            let pending = state.pending.entry(inode.0).or_default();
            pending.node = true;
            pending.attributes_done = false;
        });
    }

    fn invalidate_names(&self) {
        self.shared.change(State::expire_all);
    }

    fn caught_up(&self) -> BoxFuture<'static, ()> {
        let (told, mut written) = (self.shared.state().told, self.shared.written.subscribe());
        async move {
            // An error: the thread is gone, and nothing will be written any more.
            let _ = written.wait_for(|written| *written >= told).await;
        }
        .boxed()
    }
}

/// What the thread is to do next.
enum Message {
    /// Attributes only, or the pages too.
    Node {
        inode: u64,
        pages: bool,
    },
    Entry {
        parent: u64,
        name: Box<[u8]>,
    },
    Everything,
}

struct Writer {
    device: OwnedFd,
    shared: Arc<Shared>,
    knows_epoch: bool,
    /// Errors that are in the log already.
    reported: HashSet<i32>,
}

impl Writer {
    fn run(&mut self) {
        while let Some((messages, told)) = self.next() {
            for message in messages {
                if !self.write(message) {
                    self.shared.written.send_replace(u64::MAX);
                    return;
                }
            }
            self.has_written(told);
        }
    }

    /// What was told until then is written, as far as it can be.
    fn has_written(&self, told: u64) {
        self.shared.written.send_modify(|written| *written = told.max(*written));
    }

    /// Waits for messages that may be written now, and says how much of what was told they are; `None` at the end.
    fn next(&self) -> Option<(Vec<Message>, u64)> {
        loop {
            let mut state = self.shared.state();
            while !state.is_closed && state.pending.is_empty() && !state.everything {
                state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.is_closed {
                return None;
            }
            let (messages, told) = (self.take(&mut state), state.told);
            if !messages.is_empty() {
                return Some((messages, told));
            }
            drop(state);
            self.has_written(told);
            self.shared.requests.wait(LOOK_AGAIN);
        }
    }

    /// Takes out of the queue what may be written now.
    fn take(&self, state: &mut State) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut is_starved = false;
        let names = &mut state.names;
        state.pending.retain(|inode, pending| {
            let is_busy = self.shared.requests.is_busy(Inode(*inode));
            if pending.node && !(is_busy && pending.attributes_done) {
                messages.push(Message::Node { inode: *inode, pages: !is_busy });
                pending.node = is_busy;
                pending.attributes_done = is_busy;
            }
            if !is_busy {
                *names -= pending.names.len();
                let taken = std::mem::take(&mut pending.names);
                messages.extend(taken.into_iter().map(|name| Message::Entry { parent: *inode, name }));
            } else if !pending.names.is_empty() && self.knows_epoch && pending.since.elapsed() > PATIENCE {
                is_starved = true;
            }
            pending.node || !pending.names.is_empty()
        });
        if is_starved || std::mem::take(&mut state.everything) {
            if self.knows_epoch {
                // Says it for all names that wait.
                *names = 0;
                state.pending.retain(|_, pending| {
                    pending.names = HashSet::new();
                    pending.node
                });
                messages.retain(|message| !matches!(message, Message::Entry { .. }));
            }
            messages.push(Message::Everything);
        }
        messages
    }

    /// Writes one message; false at the end of the session.
    fn write(&mut self, message: Message) -> bool {
        let (code, body, name): (i32, Vec<u8>, &[u8]) = match &message {
            Message::Node { inode, pages } => {
                let is_late = *pages && self.shared.requests.is_busy(Inode(*inode));
                if is_late {
                    // Somebody came while we wrote the others: the pages have their turn later.
                    Notifier { shared: self.shared.clone() }.invalidate_node(Inode(*inode));
                }
                // Offset 0 and length 0: all pages; a negative offset: none.
                let offset: i64 = if *pages && !is_late { 0 } else { -1 };
                let body = [inode.to_ne_bytes(), offset.to_ne_bytes(), 0i64.to_ne_bytes()].concat();
                (INVALIDATE_INODE, body, &[])
            }
            Message::Entry { parent, name } => {
                if self.shared.requests.is_busy(Inode(*parent)) {
                    // Somebody came while we wrote the others.
                    Notifier { shared: self.shared.clone() }.invalidate_entry(Inode(*parent), name);
                    return true;
                }
                let Ok(length) = u32::try_from(name.len()) else { return true };
                let mut body = parent.to_ne_bytes().to_vec();
                body.extend(length.to_ne_bytes());
                body.extend(EXPIRE_ONLY.to_ne_bytes());
                (INVALIDATE_ENTRY, body, name)
            }
            Message::Everything if self.knows_epoch => (INCREMENT_EPOCH, Vec::new(), &[]),
            Message::Everything => {
                tracing::warn!(
                    "all names should be looked up again at once: some are shown as they were until they expire"
                );
                return true;
            }
        };
        let end: &[u8] = if code == INVALIDATE_ENTRY { &[0] } else { &[] };
        match self.send(code, &body, name, end) {
            Ok(()) => true,
            // The kernel does not know the node or the name: nothing to correct.
            Err(nix::Error::ENOENT) => true,
            Err(nix::Error::ENODEV | nix::Error::ENOTCONN | nix::Error::EBADF) => false,
            Err(nix::Error::EINVAL) if code == INCREMENT_EPOCH => {
                tracing::info!("this kernel has no epoch: names of a busy directory wait until it is idle");
                self.knows_epoch = false;
                true
            }
            Err(error) => {
                if self.reported.insert(error as i32) {
                    tracing::warn!(%error, code, "the kernel refused a notification; this is said once");
                }
                true
            }
        }
    }

    fn send(&self, code: i32, body: &[u8], name: &[u8], end: &[u8]) -> Result<(), nix::Error> {
        let length = HEADER + body.len() + name.len() + end.len();
        let Ok(length) = u32::try_from(length) else { return Err(nix::Error::EINVAL) };
        let mut header = length.to_ne_bytes().to_vec();
        header.extend(code.to_ne_bytes());
        header.extend(0u64.to_ne_bytes());
        let parts = [&header, body, name, end].map(IoSlice::new);
        loop {
            match nix::sys::uio::writev(self.device.as_fd(), &parts) {
                Ok(_) => return Ok(()),
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    /// A notifier on a socket instead of the device: each message is a datagram.
    fn notifier() -> (Notifier, Arc<Requests>, UnixDatagram) {
        let (here, there) = UnixDatagram::pair().expect("a pair of sockets");
        here.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        let requests = Arc::new(Requests::default());
        let notifier = Notifier::start(there.into(), requests.clone()).expect("a thread");
        (notifier, requests, here)
    }

    fn receive(socket: &UnixDatagram) -> Vec<u8> {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).expect("a message");
        buffer[..length].to_vec()
    }

    #[test]
    fn messages_are_complete() {
        let (notifier, _requests, socket) = notifier();
        notifier.invalidate_entry(Inode(7), b"a b");
        let message = receive(&socket);
        assert_eq!(message[..4], 36u32.to_ne_bytes(), "header, body, name and NUL");
        assert_eq!(message[4..8], 3u32.to_ne_bytes());
        assert_eq!(message[8..16], [0; 8]);
        assert_eq!(message[16..24], 7u64.to_ne_bytes());
        assert_eq!(message[24..28], 3u32.to_ne_bytes());
        assert_eq!(&message[32..], b"a b\0");
        notifier.invalidate_node(Inode(9));
        let message = receive(&socket);
        assert_eq!((message.len(), &message[16..24]), (40, &9u64.to_ne_bytes()[..]));
        notifier.close();
        let mut rest = [0; 1];
        assert_eq!(socket.recv(&mut rest).ok(), None, "the other end is closed");
    }

    #[test]
    fn busy_file_loses_its_attributes_at_once_and_its_pages_when_it_is_idle() {
        let (notifier, requests, socket) = notifier();
        let busy = requests.start(&[Inode(9)]);
        notifier.invalidate_node(Inode(9));
        let offset = |message: Vec<u8>| i64::from_ne_bytes(message[24..32].try_into().expect("eight bytes"));
        assert_eq!(offset(receive(&socket)), -1);
        drop(busy);
        assert_eq!(offset(receive(&socket)), 0);
        notifier.close();
    }

    #[test]
    fn file_that_became_busy_before_its_message_is_written_keeps_its_pages_for_the_moment() {
        let (here, there) = UnixDatagram::pair().expect("a pair of sockets");
        here.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        let requests = Arc::new(Requests::default());
        let shared = Shared::new(requests.clone());
        let mut writer =
            Writer { device: there.into(), shared: shared.clone(), knows_epoch: true, reported: HashSet::new() };
        let notifier = Notifier { shared: shared.clone() };
        notifier.invalidate_node(Inode(9));
        let messages = writer.take(&mut shared.state());
        let busy = requests.start(&[Inode(9)]);
        assert!(messages.into_iter().all(|message| writer.write(message)));
        let offset = |message: Vec<u8>| i64::from_ne_bytes(message[24..32].try_into().expect("eight bytes"));
        assert_eq!(offset(receive(&here)), -1);
        drop(busy);
        let messages = writer.take(&mut shared.state());
        assert!(messages.into_iter().all(|message| writer.write(message)));
        assert_eq!(offset(receive(&here)), 0);
    }

    #[tokio::test]
    async fn who_waits_for_what_he_told_waits_for_no_request() {
        let (notifier, requests, socket) = notifier();
        notifier.invalidate_node(Inode(9));
        notifier.invalidate_entry(Inode(7), b"x");
        notifier.caught_up().await;
        socket.set_nonblocking(true).expect("a socket");
        let mut codes = [receive(&socket)[4..8].to_vec(), receive(&socket)[4..8].to_vec()];
        codes.sort();
        assert_eq!(codes.concat(), [2u32.to_ne_bytes(), 3u32.to_ne_bytes()].concat(), "written by now");
        let busy = requests.start(&[Inode(7), Inode(9)]);
        notifier.invalidate_entry(Inode(7), b"x");
        notifier.invalidate_node(Inode(9));
        notifier.caught_up().await;
        let message = receive(&socket);
        assert_eq!(i64::from_ne_bytes(message[24..32].try_into().expect("eight bytes")), -1, "its attributes");
        drop(busy);
        notifier.close();
        notifier.caught_up().await;
    }

    #[test]
    fn names_of_a_busy_directory_wait_and_then_cost_the_epoch() {
        let (notifier, requests, socket) = notifier();
        let busy = requests.start(&[Inode(1)]);
        notifier.invalidate_entry(Inode(1), b"x");
        socket.set_read_timeout(Some(PATIENCE / 2)).expect("a socket");
        assert!(socket.recv(&mut [0; 64]).is_err(), "not while it is busy");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        assert_eq!(receive(&socket)[4..8], 8u32.to_ne_bytes());
        notifier.invalidate_entry(Inode(1), b"y");
        notifier.invalidate_entry(Inode(1), b"y");
        drop(busy);
        assert_eq!(&receive(&socket)[32..], b"y\0");
        notifier.close();
    }

    #[test]
    fn all_names_are_one_message_which_speaks_for_those_that_wait() {
        let (notifier, requests, socket) = notifier();
        let busy = requests.start(&[Inode(1)]);
        notifier.invalidate_entry(Inode(1), b"x");
        notifier.invalidate_names();
        assert_eq!(receive(&socket)[4..8], 8u32.to_ne_bytes());
        drop(busy);
        notifier.invalidate_node(Inode(9));
        assert_eq!(receive(&socket)[4..8], 2u32.to_ne_bytes(), "nothing else was said of the name");
        notifier.close();
    }

    #[test]
    fn more_names_than_may_wait_are_one_message() {
        let (notifier, requests, socket) = notifier();
        let _busy = requests.start(&[Inode(1)]);
        for number in 0..=MOST_NAMES {
            notifier.invalidate_entry(Inode(1), number.to_string().as_bytes());
        }
        assert_eq!(receive(&socket)[4..8], 8u32.to_ne_bytes());
        assert!(notifier.shared.state().names <= 1);
        notifier.close();
    }
}
