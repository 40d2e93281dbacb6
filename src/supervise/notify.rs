//! The service manager's end of sd_notify(3): what the generations say, and whom else it is for.

use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt};
use nix::unistd::{Pid, getuid};

/// Longer than any honest message.
const MAX_MESSAGE: usize = 4096;

/// What a service manager before the supervisor may hear. Not `MAINPID`, which is the supervisor for it,
/// and nothing that comes with descriptors.
const PASSED_ON: [&str; 7] =
    ["READY", "RELOADING", "MONOTONIC_USEC", "STOPPING", "EXTEND_TIMEOUT_USEC", "STATUS", "ERRNO"];

fn name_prefix(supervisor: i32) -> String {
    format!("@exuvia-supervisor/{supervisor}/")
}

/// Whether `NOTIFY_SOCKET` comes from the supervisor with the pid `supervisor`.
pub(super) fn is_given_by(notify_socket: &OsStr, supervisor: i32) -> bool {
    notify_socket.as_bytes().starts_with(name_prefix(supervisor).as_bytes())
}

/// Where the generations notify the supervisor.
///
/// Its name is in the abstract namespace: nothing is left behind, and no folder needs to be writable. Such
/// a socket has no permissions, so the kernel must say who sends (`SO_PASSCRED`, unix(7)).
#[derive(Debug)]
pub(super) struct NotifySocket {
    socket: UnixDatagram,
    name: String,
}

impl NotifySocket {
    pub(super) fn bind() -> io::Result<NotifySocket> {
        // A name that cannot be guessed cannot be taken by another first.
        let random = || RandomState::new().build_hasher().finish();
        let supervisor = i32::try_from(std::process::id()).unwrap_or(0);
        let name = format!("{}{:016x}{:016x}", name_prefix(supervisor), random(), random());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name[1..])?)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        Ok(NotifySocket { socket, name })
    }

    /// The value of `NOTIFY_SOCKET`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The next message from a process of the same user, and that process.
    pub(super) fn next(&self) -> Option<(Pid, Notice)> {
        let mut bytes = [0; MAX_MESSAGE];
        // Room for the sender and nothing else: descriptors that come along are closed by the kernel.
        let mut control = nix::cmsg_space!(UnixCredentials);
        loop {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut slices, Some(&mut control), flags);
            let message = match message {
                Ok(message) => message,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => return None,
            };
            let sender = message.cmsgs().into_iter().flatten().find_map(|part| match part {
                ControlMessageOwned::ScmCredentials(sender) => Some(sender),
                _ => None,
            });
            let (length, whole) = (message.bytes, !message.flags.contains(MsgFlags::MSG_TRUNC));
            let Some(sender) = sender.filter(|sender| whole && sender.uid() == getuid().as_raw()) else {
                continue;
            };
            if let Some(notice) = Notice::parse(&bytes[..length]) {
                return Some((Pid::from_raw(sender.pid()), notice));
            }
        }
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What a generation says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Notice {
    /// It serves.
    pub(super) ready: bool,
    /// It begins an upgrade.
    pub(super) reloading: bool,
    /// This is the main process from now on.
    pub(super) main_pid: Option<Pid>,
    /// What a service manager before the supervisor may hear, line by line.
    pub(super) rest: String,
}

impl Notice {
    /// `None` if it is not text.
    fn parse(message: &[u8]) -> Option<Notice> {
        let mut notice = Notice::default();
        for line in str::from_utf8(message).ok()?.lines() {
            let Some((name, value)) = line.split_once('=') else { continue };
            match (name, value) {
                ("MAINPID", pid) => {
                    notice.main_pid = pid.parse().ok().filter(|pid| *pid > 0).map(Pid::from_raw);
                }
                ("READY", "1") => notice.ready = true,
                ("RELOADING", "1") => notice.reloading = true,
                _ => {}
            }
            if PASSED_ON.contains(&name) {
                notice.rest.push_str(line);
                notice.rest.push('\n');
            }
        }
        Some(notice)
    }
}

/// The way to a service manager before the supervisor, if there is one.
#[derive(Debug)]
pub(super) struct Upstream(Option<OsString>);

impl Upstream {
    pub(super) fn new(notify_socket: Option<&OsStr>) -> Upstream {
        Upstream(notify_socket.map(OsStr::to_owned))
    }

    pub(super) fn pass_on(&self, text: &str) -> io::Result<()> {
        let Some(name) = self.0.as_ref().filter(|_| !text.is_empty()) else { return Ok(()) };
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "NOTIFY_SOCKET is no address")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(text.trim_end().as_bytes(), &address).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_generation_says() {
        let notice = Notice::parse(b"MAINPID=42\nREADY=1\nSTATUS=generation 2 serves").unwrap();
        assert_eq!(notice.main_pid, Some(Pid::from_raw(42)));
        assert!(notice.ready);
        assert_eq!(notice.rest, "READY=1\nSTATUS=generation 2 serves\n");

        let notice = Notice::parse(b"RELOADING=1\nMONOTONIC_USEC=5\nFDSTORE=1\nX_OWN=2\n").unwrap();
        assert_eq!(notice.rest, "RELOADING=1\nMONOTONIC_USEC=5\n");
        assert!(notice.reloading && !notice.ready && notice.main_pid.is_none());
    }

    #[test]
    fn what_is_no_message_says_nothing() {
        for text in ["", "\n\n", "MAINPID", "MAINPID=", "MAINPID=0", "MAINPID=-1", "MAINPID=1x", "READY=0x"] {
            let notice = Notice::parse(text.as_bytes()).unwrap();
            assert!(!notice.ready && notice.main_pid.is_none(), "{text:?}: {notice:?}");
        }
        assert_eq!(Notice::parse(b"READY=1\nSTATUS=\xff"), None);
    }

    #[test]
    fn the_kernel_says_who_sends() {
        let ours = NotifySocket::bind().unwrap();
        let manager = UnixDatagram::unbound().unwrap();
        let address = SocketAddr::from_abstract_name(&ours.name()[1..]).unwrap();
        manager.send_to_addr(&[b'x'; MAX_MESSAGE + 1], &address).unwrap();
        manager.send_to_addr(b"READY=1", &address).unwrap();
        let (sender, notice) = ours.next().unwrap();
        assert_eq!(sender, Pid::this());
        assert!(notice.ready);
        assert!(ours.next().is_none());
    }

    #[test]
    fn a_service_manager_before_the_supervisor_hears_it() {
        let manager = NotifySocket::bind().unwrap();
        Upstream::new(Some(OsStr::new(manager.name()))).pass_on("READY=1\nSTATUS=fine\n").unwrap();
        assert_eq!(manager.next().unwrap().1.rest, "READY=1\nSTATUS=fine\n");
        Upstream::new(Some(OsStr::new("vsock:1"))).pass_on("READY=1\n").unwrap_err();
        Upstream::new(None).pass_on("READY=1\n").unwrap();
    }
}
