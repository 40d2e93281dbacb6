//! What the service manager is told (sd_notify(3)).
//!
//! A manager whose queue is full for a moment is waited for, since without `MAINPID=` it would end the new process with
//! the old one; but not on the thread that tells: whatever finds the queue full, and all that follows, goes to a thread
//! of its own.

use std::cell::RefCell;
use std::env;
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::inherit::SEGMENT;
use super::segment::Segment;

/// How long a word waits for room in the service manager's queue, away from everything else.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many words wait at most.
const QUEUE: usize = 64;
/// How long the words that wait hold up the end of the process.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub(crate) struct Notifier(Option<Way>);

#[derive(Debug)]
struct Way {
    socket: UnixDatagram,
    address: SocketAddr,
    /// Once a word has found the queue full, those who come after it wait, too.
    late: RefCell<Option<Late>>,
}

/// A thread that waits.
#[derive(Debug)]
struct Late {
    words: mpsc::SyncSender<Word>,
    /// Ends when nothing waits any more.
    done: oneshot::Receiver<()>,
}

/// What is told, and what goes with it.
#[derive(Debug)]
struct Word {
    text: String,
    segment: Option<Segment>,
}

impl Notifier {
    /// From `NOTIFY_SOCKET`. The variable stays: later generations need it too.
    pub(crate) fn from_environment() -> Notifier {
        let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else {
            return Notifier(None);
        };
        // Made now and kept: when the descriptors have run out there is none for `MAINPID=`, and a manager that
        // has not heard of the new process ends it with the old one.
        let connected = Way::open(&socket);
        if let Err(error) = &connected {
            tracing::warn!(?socket, %error, "cannot use NOTIFY_SOCKET; the service manager will hear nothing");
        }
        Notifier(connected.ok())
    }

    /// The owner serves.
    pub(crate) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// This process became the owner because its predecessor died. A manager with `NotifyAccess=main`
    /// ignores it: the dead process was the main one.
    pub(crate) fn succeed(&self, status: &str) {
        self.send(&format!("MAINPID={}\nREADY=1\nSTATUS={status}", std::process::id()));
    }

    /// An upgrade begins. Both variables must be in one datagram for `Type=notify-reload`.
    pub(crate) fn reloading(&self, status: &str) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS={status}", now.as_micros()));
    }

    /// The main process is another from now on. One datagram, because after it this process is not the
    /// main one any more and may not be heard.
    pub(crate) fn pass(&self, pid: i32, status: &str) {
        self.send(&format!("MAINPID={pid}\nREADY=1\nSTATUS={status}"));
    }

    /// This process stops and may take `drain` longer than the manager expects.
    pub(crate) fn stopping(&self, drain: Duration, status: &str) {
        self.send(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}\nSTATUS={status}", drain.as_micros()));
    }

    /// Has the manager keep a segment, and give it to the process that it starts after a crash. It does so only
    /// where the unit has a `FileDescriptorStoreMax=`.
    pub(crate) fn store(&self, segment: &Segment) {
        let name = name(segment.table().identity);
        self.send_with(&format!("FDSTORE=1\nFDNAME={name}"), Some(segment));
    }

    /// The manager need not keep that one any more.
    pub(crate) fn unstore(&self, identity: u64) {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={}", name(identity)));
    }

    fn send(&self, text: &str) {
        self.send_with(text, None);
    }

    fn send_with(&self, text: &str, segment: Option<&Segment>) {
        let Some(way) = &self.0 else { return };
        let word = Word { text: text.to_owned(), segment: segment.cloned() };
        if let Err(error) = way.tell(word) {
            tracing::warn!(%error, "cannot notify the service manager");
        }
    }

    /// Waits until nothing waits any more, for at most a second. To be called at the end of the process.
    pub(crate) async fn finish(&self) {
        let late = self.0.as_ref().and_then(|way| way.late.take());
        if let Some(Late { words, done }) = late {
            drop(words);
            if timeout(FINISH_TIMEOUT, done).await.is_err() {
                tracing::warn!("the service manager does not read, and has not heard all that it should");
            }
        }
    }
}

impl Way {
    fn open(name: &OsString) -> io::Result<Way> {
        let address = parse(name)?;
        let socket = UnixDatagram::unbound()?;
        // For the thread that waits.
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Way { socket, address, late: RefCell::default() })
    }

    /// Without waiting.
    fn tell(&self, word: Word) -> io::Result<()> {
        let mut late = self.late.borrow_mut();
        let waiting = match &*late {
            Some(waiting) => waiting,
            None => match send(&self.socket, &self.address, &word, MsgFlags::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => late.insert(self.wait()?),
                sent => return sent,
            },
        };
        waiting.words.try_send(word).map_err(|_| io::Error::other("it does not read, and too much waits"))
    }

    fn wait(&self) -> io::Result<Late> {
        let (words, waiting) = mpsc::sync_channel::<Word>(QUEUE);
        let (ended, done) = oneshot::channel();
        let (socket, address) = (self.socket.try_clone()?, self.address.clone());
        thread::Builder::new().name("notify".to_owned()).spawn(move || {
            for word in waiting {
                if let Err(error) = send(&socket, &address, &word, MsgFlags::empty()) {
                    tracing::warn!(%error, "cannot notify the service manager");
                }
            }
            ended.send(()).ok();
        })?;
        Ok(Late { words, done })
    }
}

fn send(socket: &UnixDatagram, address: &SocketAddr, word: &Word, flags: MsgFlags) -> io::Result<()> {
    let address = match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => UnixAddr::new(path)?,
        (None, name) => UnixAddr::new_abstract(name.unwrap_or_default())?,
    };
    let raw: Vec<RawFd> = word.segment.iter().map(|segment| segment.as_fd().as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let text = [IoSlice::new(word.text.as_bytes())];
    sendmsg(socket.as_raw_fd(), &text, control, flags | MsgFlags::MSG_NOSIGNAL, Some(&address))?;
    Ok(())
}

/// What a descriptor store calls a segment.
fn name(identity: u64) -> String {
    format!("{SEGMENT}-{identity:016x}")
}

/// A path, or a name in the abstract namespace behind an `@`.
fn parse(socket: &OsString) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(socket),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The control thread waited 200 ms for room, for each word anew, and then the word was lost: nothing else was
    /// done meanwhile, not even taking the traffic back.
    #[tokio::test]
    async fn a_manager_whose_queue_is_full_is_waited_for_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let filler = UnixDatagram::unbound().unwrap();
        filler.set_nonblocking(true).unwrap();
        while filler.send_to(b"X=1", &path).is_ok() {}

        let notifier = Notifier(Some(Way::open(&path.into_os_string()).unwrap()));
        notifier.ready("first");
        notifier.stopping(Duration::ZERO, "second");
        // This thread goes on, so it can read: were it to wait, it would do so for itself.
        let mut bytes = [0; 256];
        let mut heard = Vec::new();
        while heard.len() < 2 {
            let count = manager.recv(&mut bytes).unwrap();
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            heard.extend(text.lines().find_map(|line| line.strip_prefix("STATUS=")).map(str::to_owned));
        }
        assert_eq!(heard, ["first", "second"]);
        notifier.finish().await;
    }
}
