//! The channel between two generations: versioned messages, and descriptors.
//!
//! A `SOCK_SEQPACKET` pair: one message a packet, in JSON. It stays open for the life of both ends, so
//! that end-of-file *is* the other's death. Old and new may differ in version, so the rules are:
//!
//! * an unknown field is ignored, a missing one has its default;
//! * an unknown *kind* of message is ignored, but for the first, the [`Offer`];
//! * [`VERSION`] changes only when these rules cannot hold; then both sides refuse, and say so. The shape
//!   of [`Message::Failed`] never changes, so that this much is always understood.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::counts::KindStatus;
use super::error::Error;
use super::history::{PastUpgrade, UnderWay};
use super::luggage::Luggage;
use super::state::{Failure, Phase, Stop};
use super::sys;

/// The version of the protocol.
pub(crate) const VERSION: u32 = 1;

/// The largest message, in bytes; well below the default of `net.core.wmem_default`.
const MAX_MESSAGE: usize = 64 * 1024;
/// What is told of a cause, in bytes: with each written as an escape it still fits.
const MAX_CAUSE: usize = 8 * 1024;
/// The most descriptors in a message: the kernel's own limit (unix(7), `SCM_MAX_FD`), so none gets lost.
const MAX_DESCRIPTORS: usize = 253;

/// What generations say to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Message {
    /// Parent → child, once, before the child runs. With it go the parent's standard error, the end from
    /// which it reads the child's, the parent's pidfd, and for each entry of `others` its channel and its
    /// pidfd.
    Offer(Box<Offer>),
    /// Child → parent: it accepts. With it goes the memory of its counters.
    Ready(Ready),
    /// Child → parent: it cannot go on.
    Failed(Failure),
    /// Parent → child: become the owner.
    Commit,
    /// Child → parent: it is the owner.
    Owner,
    /// Child → parent: it has done as much as was wanted of it, see [`Offer::wanted`].
    Proven,
    /// Parent → child: its traffic is taken back.
    Rollback,
    /// To a child, or from the owner to a generation that drains.
    Stop { how: Stop },
    /// From the owner to those that may have to take over, as those that were rolled back: another generation counts.
    /// With it go the memory of its counters and its pidfd.
    Counts { generation: u32 },
    /// From the owner to a generation that drains.
    StatusRequest,
    /// The answer.
    Status(PeerStatus),
    /// What a later version may say.
    #[serde(other)]
    Unknown,
}

/// What a child must know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Offer {
    /// The child's generation.
    pub(crate) generation: u32,
    /// The file that the child was started from, as given and absolute.
    pub(crate) executable: std::ffi::OsString,
    /// Who makes the offer.
    pub(crate) parent: Introduction,
    /// The generations that drain and that the owner looks after.
    pub(crate) others: Vec<Introduction>,
    /// The listeners whose sockets a service manager holds, too.
    pub(crate) lent: Vec<String>,
    /// The last upgrades.
    pub(crate) past: Vec<PastUpgrade>,
    /// The one that makes the child.
    pub(crate) under_way: UnderWay,
    /// How much work the child is to do in its probation; it says when it has.
    pub(crate) wanted: u64,
    /// What is the daemon's own.
    pub(crate) luggage: Luggage,
}

/// A generation, as another needs to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Introduction {
    pub(crate) generation: u32,
    pub(crate) pid: i32,
    pub(crate) version: String,
    /// When it was started, in milliseconds since the Unix epoch.
    pub(crate) started_ms: u64,
    /// How long it may drain from now, or once it begins to, in milliseconds.
    pub(crate) drain_timeout_ms: u64,
}

/// What a child says of itself when it accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Ready {
    pub(crate) version: String,
    /// The parent's listeners that the child serves too, by the parent's names. The others are the
    /// parent's to empty.
    pub(crate) adopted: Vec<String>,
    /// How long the child's connections may take to finish if it is rolled back, in milliseconds.
    pub(crate) drain_timeout_ms: u64,
}

/// What a generation that drains says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerStatus {
    pub(crate) phase: Phase,
    #[serde(default)]
    pub(crate) connections: Vec<KindStatus>,
    /// Until it is cut, in milliseconds.
    #[serde(default)]
    pub(crate) left_ms: Option<u64>,
}

/// A message and the descriptors that came with it.
pub(crate) type Packet = (Message, Vec<OwnedFd>);

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    exuvia: u32,
    #[serde(flatten)]
    message: T,
}

fn encode(message: &Message) -> io::Result<Vec<u8>> {
    let bytes = match message {
        Message::Failed(failure) if failure.message.len() > MAX_CAUSE => {
            let is_end = |at: &usize| failure.message.is_char_boundary(*at);
            let end = (0..=MAX_CAUSE).rev().find(is_end).unwrap_or(0);
            let message = format!("{} …", &failure.message[..end]);
            let failure = Failure { message, ..failure.clone() };
            serde_json::to_vec(&Envelope { exuvia: VERSION, message: Message::Failed(failure) })?
        }
        message => serde_json::to_vec(&Envelope { exuvia: VERSION, message })?,
    };
    if bytes.len() > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too large"));
    }
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Message, Error> {
    #[derive(Deserialize)]
    struct Version {
        exuvia: u32,
    }
    let garbled = |error| Error::Handoff(format!("the other side sent what is not a message: {error}"));
    let Version { exuvia } = serde_json::from_slice(bytes).map_err(garbled)?;
    let message = serde_json::from_slice::<Envelope<Message>>(bytes).map(|envelope| envelope.message);
    match (exuvia, message) {
        (VERSION, message) => message.map_err(garbled),
        (_, Ok(failed @ Message::Failed(_))) => Ok(failed),
        _ => Err(Error::Handoff(format!(
            "the other side speaks version {exuvia} of the hand-off, this program speaks version {VERSION}; \
             stop the one and start the other"
        ))),
    }
}

/// One end of a channel, outside any runtime.
#[derive(Debug)]
pub(crate) struct End<T = OwnedFd>(T);

impl End {
    /// Both ends of a new channel.
    pub(crate) fn pair() -> io::Result<(End, End)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((End(ours), End(theirs)))
    }

    pub(crate) fn try_clone(&self) -> io::Result<End> {
        self.0.try_clone().map(End)
    }
}

impl<T: AsFd> End<T> {
    /// Sends without waiting: a peer that has not read for so long that the socket is full is as good as
    /// dead, and told so by the error.
    pub(crate) fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = encode(message)?;
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
        sendmsg::<()>(
            self.0.as_fd().as_raw_fd(),
            &[IoSlice::new(&bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        Ok(())
    }

    /// Receives what is there; `None` at end-of-file. The outer error is the socket's (EAGAIN included),
    /// the inner one the message's.
    pub(crate) fn try_receive(&self) -> io::Result<Option<Result<Packet, Error>>> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let received = match sys::receive(self.0.as_fd(), &mut bytes, MAX_DESCRIPTORS) {
            // The other side died with something unread. The kernel tells that once and before what the
            // other side said; then comes what it said, then end-of-file.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                sys::receive(self.0.as_fd(), &mut bytes, MAX_DESCRIPTORS)?
            }
            received => received?,
        };
        if received.length == 0 {
            return Ok(None);
        }
        if received.truncated {
            return Ok(Some(Err(Error::Handoff("the other side sent more than a message may hold".into()))));
        }
        Ok(Some(decode(&bytes[..received.length]).map(|message| (message, received.descriptors))))
    }
}

impl From<OwnedFd> for End {
    fn from(socket: OwnedFd) -> End {
        End(socket)
    }
}

impl<T: AsFd> AsFd for End<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One end of a channel, within a runtime.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: AsyncFd<OwnedFd>,
    closed: Cell<bool>,
    /// Whether reading has failed; what the next call would say, too.
    broken: Cell<bool>,
}

impl Channel {
    pub(crate) fn new(end: End) -> io::Result<Channel> {
        // A descriptor that came from elsewhere may block.
        socket2::SockRef::from(&end).set_nonblocking(true)?;
        Ok(Channel {
            socket: sys::watch_readable(end.0)?,
            closed: Cell::new(false),
            broken: Cell::new(false),
        })
    }

    /// One on which reading fails.
    #[cfg(test)]
    pub(crate) fn broken(no_socket: OwnedFd) -> Channel {
        let socket = sys::watch_readable(no_socket).unwrap();
        Channel { socket, closed: Cell::new(false), broken: Cell::new(false) }
    }

    pub(crate) fn end(&self) -> End<BorrowedFd<'_>> {
        End(self.socket.get_ref().as_fd())
    }

    /// Whether end-of-file was seen.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Whether it has been told that reading fails: nothing more is heard here, not even the other side's death.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// The next message; `None` when the other side is gone. An error that will stay is told once, and then nothing.
    /// Cancel-safe.
    pub(crate) async fn receive(&self) -> Option<Result<Packet, Error>> {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    /// As [`Channel::receive`]; wakes the last task that asked.
    pub(crate) fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Packet, Error>>> {
        if self.broken.get() {
            return Poll::Pending;
        }
        let broken = |what, cause| {
            self.broken.set(true);
            Poll::Ready(Some(Err(Error::system(what)(cause))))
        };
        loop {
            let mut ready = match ready!(self.socket.poll_read_ready(cx)) {
                Ok(ready) => ready,
                Err(cause) => return broken("watch the hand-off channel", cause),
            };
            match ready.try_io(|socket| End(socket.get_ref().as_fd()).try_receive()) {
                Ok(Ok(Some(packet))) => return Poll::Ready(Some(packet)),
                Ok(Err(error)) if error.kind() != io::ErrorKind::ConnectionReset => {
                    return broken("read from the hand-off channel", error);
                }
                // End-of-file.
                Ok(Ok(None) | Err(_)) => {
                    self.closed.set(true);
                    return Poll::Ready(None);
                }
                Err(_would_block) => {}
            }
        }
    }

    /// What has been said and not been read yet, without waiting.
    pub(crate) fn unread(&self) -> Option<Result<Packet, Error>> {
        self.end().try_receive().ok()?
    }

    /// Whether the other side is gone and nothing that it said is left to be read.
    pub(crate) fn is_at_end(&self) -> bool {
        let fd = self.socket.get_ref().as_raw_fd();
        let peek = || recv(fd, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
        // Told once, as above.
        matches!(peek().or_else(|errno| if errno == Errno::ECONNRESET { peek() } else { Err(errno) }), Ok(0))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

/// A duration as the messages have it.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Message {
        let offer = Offer { generation: 2, executable: "/opt/exuvia".into(), ..Offer::default() };
        Message::Offer(Box::new(offer))
    }

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (ours, theirs) = End::pair().unwrap();
        let (extra, _other) = End::pair().unwrap();
        ours.send(&offer(), &[extra.as_fd()]).unwrap();
        let (message, descriptors) = theirs.try_receive().unwrap().unwrap().unwrap();
        assert_eq!(message, offer());
        assert_eq!(descriptors.len(), 1);
        let error = theirs.try_receive().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(ours);
        assert!(theirs.try_receive().unwrap().is_none());
    }

    /// Reading stopped at the reset, and a `Stop` that a dying parent had sent was lost: its child took over.
    #[test]
    fn what_the_dead_said_is_heard_although_they_left_something_unread() {
        let (ours, theirs) = End::pair().unwrap();
        theirs.send(&Message::Owner, &[]).unwrap();
        theirs.send(&Message::Commit, &[]).unwrap();
        ours.send(&Message::Rollback, &[]).unwrap();
        drop(theirs);
        assert_eq!(ours.try_receive().unwrap().unwrap().unwrap().0, Message::Owner);
        assert_eq!(ours.try_receive().unwrap().unwrap().unwrap().0, Message::Commit);
        assert!(ours.try_receive().unwrap().is_none());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_end_is_where_nothing_is_left_to_be_read() {
        let (ours, theirs) = End::pair().unwrap();
        let ours = Channel::new(ours).unwrap();
        assert!(!ours.is_at_end());
        theirs.send(&Message::Owner, &[]).unwrap();
        let copy = theirs.try_clone().unwrap();
        ours.end().send(&Message::Rollback, &[]).unwrap();
        drop(theirs);
        assert!(!ours.is_at_end());
        assert_eq!(ours.unread().unwrap().unwrap().0, Message::Owner);
        assert!(!ours.is_at_end(), "a copy is open");
        drop(copy);
        assert!(ours.is_at_end());
    }

    /// nix gives none when the list was cut short: what the kernel had made by then stayed open for ever.
    #[test]
    fn descriptors_of_a_message_that_is_cut_short_are_closed() {
        let (ours, theirs) = End::pair().unwrap();
        let (left, right) = End::pair().unwrap();
        theirs.send(&Message::Owner, &[right.as_fd(); 5]).unwrap();
        drop(right);
        let received = sys::receive(ours.as_fd(), &mut [0; 100], 1).unwrap();
        assert!(received.truncated && !received.descriptors.is_empty());
        drop(received);
        assert!(left.try_receive().unwrap().is_none(), "a copy is open");
    }

    /// It was too large for a message, so nothing was told but that the new process had died.
    #[test]
    fn a_cause_of_any_length_is_told() {
        let (ours, theirs) = End::pair().unwrap();
        let failure = Failure::new("configuration", "\u{1}é".repeat(MAX_MESSAGE));
        theirs.send(&Message::Failed(failure), &[]).unwrap();
        let Message::Failed(told) = ours.try_receive().unwrap().unwrap().unwrap().0 else { panic!() };
        assert_eq!(told.step, "configuration");
        assert!(told.message.starts_with("\u{1}é") && told.message.ends_with('…'));
    }

    #[test]
    fn what_a_later_version_adds_is_ignored() {
        let more = br#"{"exuvia":1,"kind":"ready","version":"9.9","adopted":["web"],"moon":"full"}"#;
        let Ok(Message::Ready(ready)) = decode(more) else { panic!("not understood") };
        assert_eq!((ready.version.as_str(), ready.drain_timeout_ms), ("9.9", 0));
        assert_eq!(decode(br#"{"exuvia":1,"kind":"sing","tune":3}"#).unwrap(), Message::Unknown);
    }

    #[test]
    fn another_version_is_refused_but_its_failure_is_heard() {
        let error = decode(br#"{"exuvia":7,"kind":"ready"}"#).unwrap_err().to_string();
        assert!(error.contains("version 7") && error.contains("version 1"), "{error}");
        let failed = decode(br#"{"exuvia":7,"kind":"failed","step":"handoff","message":"no"}"#).unwrap();
        assert_eq!(failed, Message::Failed(Failure::new("handoff", "no")));
    }

    #[test]
    fn garbage_is_an_error_and_the_next_message_is_read() {
        let (ours, theirs) = End::pair().unwrap();
        nix::unistd::write(&ours, b"\xff\x00 not json").unwrap();
        nix::unistd::write(&ours, &vec![b'x'; MAX_MESSAGE + 1]).unwrap();
        ours.send(&Message::Owner, &[]).unwrap();
        assert!(theirs.try_receive().unwrap().unwrap().is_err());
        assert!(theirs.try_receive().unwrap().unwrap().is_err());
        assert_eq!(theirs.try_receive().unwrap().unwrap().unwrap().0, Message::Owner);
    }
}
