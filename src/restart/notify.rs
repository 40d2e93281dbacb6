//! What the service manager is told (sd_notify(3)).

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

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

    fn send(&self, text: &str) {
        let Some((socket, address)) = &self.0 else { return };
        if let Err(error) = socket.send_to_addr(text.as_bytes(), address) {
            tracing::warn!(%error, "cannot notify the service manager");
        }
    }
}

/// A path, or a name in the abstract namespace behind an `@`.
fn parse(socket: &OsString) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(socket),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
    }
}
