//! What the service manager is told (sd_notify(3)).

use std::env;
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::time::{ClockId, clock_gettime};

use super::inherit::SEGMENT;
use super::segment::Segment;

/// How long a word waits for room in the service manager's queue.
const PATIENCE: Duration = Duration::from_millis(200);

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub(crate) struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// From `NOTIFY_SOCKET`. The variable stays: later generations need it too.
    pub(crate) fn from_environment() -> Notifier {
        let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else {
            return Notifier(None);
        };
        // Made now and kept: when the descriptors have run out there is none for `MAINPID=`, and a manager that
        // has not heard of the new process ends it with the old one.
        let connected = parse(&socket).and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            // A manager whose queue is full for a moment is waited for: without `MAINPID=` it would end the
            // new process with the old one. One that does not read at all holds nothing up for long.
            socket.set_write_timeout(Some(PATIENCE))?;
            Ok((socket, address))
        });
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
        let Some((socket, address)) = &self.0 else { return };
        let send = || -> io::Result<()> {
            let address = match (address.as_pathname(), address.as_abstract_name()) {
                (Some(path), _) => UnixAddr::new(path)?,
                (None, name) => UnixAddr::new_abstract(name.unwrap_or_default())?,
            };
            let raw: Vec<RawFd> = segment.iter().map(|segment| segment.as_fd().as_raw_fd()).collect();
            let rights = [ControlMessage::ScmRights(&raw)];
            let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
            let text = [IoSlice::new(text.as_bytes())];
            sendmsg(socket.as_raw_fd(), &text, control, MsgFlags::MSG_NOSIGNAL, Some(&address))?;
            Ok(())
        };
        if let Err(error) = send() {
            tracing::warn!(%error, "cannot notify the service manager");
        }
    }
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
