//! Name → group of listening sockets: adopted from a predecessor or a service manager, or bound.
//!
//! Invariant: a socket that was inherited for a listener of this process stays open, and in some worker's
//! accept loop, for as long as the listener is configured. Closing one socket of an `SO_REUSEPORT` group
//! would reset what waits in its queue.

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use socket2::{Domain, SockAddr, Socket, Type};

use super::accept::{Audience, Listener};
use super::address::ListenAddr;
use super::error::Error;
use super::inherit::{HANDOFF, MAX_FDS, MAX_SEGMENTS, SEGMENT};

/// How a listener is bound when there is nothing to adopt.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Sockets in the group: as many as there are workers, so that accepts need no lock. A Unix socket
    /// has no `SO_REUSEPORT` and is always one.
    pub sockets: usize,
    /// The length of each accept queue (listen(2)); the kernel cuts it to `net.core.somaxconn`.
    pub backlog: u32,
    /// The permissions of a Unix socket.
    pub unix_mode: u32,
    /// Who accepts while two generations live.
    pub audience: Audience,
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions { sockets: 1, backlog: 4096, unix_mode: 0o666, audience: Audience::Public }
    }
}

/// A listening socket that came from outside.
#[derive(Debug)]
pub(crate) struct InheritedSocket {
    pub(crate) name: String,
    pub(crate) address: ListenAddr,
    pub(crate) socket: OwnedFd,
    /// As [`Group::lent`].
    pub(crate) lent: bool,
}

/// The listeners of a process.
#[derive(Debug)]
pub struct Listeners {
    inherited: Vec<InheritedSocket>,
    groups: Vec<Group>,
}

/// The sockets of one listener.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: Arc<str>,
    pub(crate) address: ListenAddr,
    pub(crate) audience: Audience,
    pub(crate) sockets: Vec<OwnedFd>,
    /// The name under which the predecessor knows it; `None` if it was bound by this process.
    pub(crate) adopted_as: Option<String>,
    /// Whether a service manager passed it, to this generation or to an earlier one. It has the same socket,
    /// and may give it to another process after this one: what is done to the socket is done to that one too.
    pub(crate) lent: bool,
}

impl Listeners {
    pub(crate) fn new(inherited: Vec<InheritedSocket>) -> Self {
        Listeners { inherited, groups: Vec::new() }
    }

    /// Opens the listener `name` at `wanted`: adopts the sockets that were inherited for it, or binds new
    /// ones. Returns the address that it has, where port 0 is now the kernel's choice.
    pub fn open(
        &mut self,
        name: &str,
        wanted: &ListenAddr,
        options: &ListenOptions,
    ) -> Result<ListenAddr, Error> {
        if self.groups.iter().any(|group| &*group.name == name) {
            return Err(Error::DuplicateListener(name.to_owned()));
        }
        let is_printable = |byte: u8| byte != b':' && (b' '..=b'~').contains(&byte);
        let is_ours = name == HANDOFF || name.starts_with(SEGMENT);
        if is_ours || !(1..=255).contains(&name.len()) || !name.bytes().all(is_printable) {
            return Err(Error::ListenerName(name.to_owned()));
        }
        let group = match self.adopt(name, wanted, options)? {
            Some(group) => {
                self.has_room(name, group.sockets.len())?;
                group
            }
            None => {
                let is_tcp = matches!(wanted, ListenAddr::Tcp(_));
                self.has_room(name, if is_tcp { options.sockets } else { 1 })?;
                self.bind(name, wanted, options)?
            }
        };
        let address = group.address.clone();
        self.groups.push(group);
        Ok(address)
    }

    /// Where the listener `name` was bound that was inherited and that no [`Listeners::open`] has adopted yet.
    pub fn inherited<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ListenAddr> {
        self.inherited.iter().filter(move |socket| socket.name == name).map(|socket| &socket.address)
    }

    /// The listeners that were opened, with their addresses, in that order.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, &ListenAddr)> {
        self.groups.iter().map(|group| (&*group.name, &group.address))
    }

    /// The sockets of the listener `name` that `worker` of `workers` serves, counted from 0; none if there
    /// is no such listener. With fewer workers than sockets a worker serves several; with more, some share
    /// one.
    pub fn share(&self, name: &str, worker: usize, workers: usize) -> Result<Vec<Listener>, Error> {
        let Some(group) = self.groups.iter().find(|group| &*group.name == name) else {
            return Ok(Vec::new());
        };
        let (sockets, workers) = (group.sockets.len(), workers.max(1));
        let mine = (0..sockets.max(workers)).filter(|i| i % workers == worker).map(|i| i % sockets);
        let mine: BTreeSet<usize> = mine.collect();
        mine.into_iter().map(|i| group.listener(i)).collect()
    }

    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Closes what was inherited and is not configured, and returns the names of that.
    pub(crate) fn close_unclaimed(&mut self) -> Vec<(String, ListenAddr)> {
        self.inherited.drain(..).map(|socket| (socket.name, socket.address)).collect()
    }

    /// Closes this copy of the sockets of those groups; their names and addresses stay known.
    pub(crate) fn close(&mut self, which: impl Fn(&Group) -> bool) {
        self.groups.iter_mut().filter(|group| which(group)).for_each(|group| group.sockets.clear());
    }

    /// Removes the files of the Unix sockets of those groups, but for what is another's.
    pub(crate) fn remove_files(&self, which: impl Fn(&Group) -> bool) {
        for group in self.groups.iter().filter(|group| which(group) && !group.lent) {
            if let ListenAddr::Unix(path) = &group.address
                && let Err(error) = std::fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(listener = %group.name, path = %path.display(), %error, "cannot remove the socket");
            }
        }
    }

    /// Whether an upgrade could hand over so many more sockets. Told now, not by each upgrade.
    fn has_room(&self, name: &str, more: usize) -> Result<(), Error> {
        /// execve(2) takes no variable that is longer (`MAX_ARG_STRLEN`, 32 pages).
        const MAX_VARIABLE: usize = 128 * 1024;
        let groups = self.groups.iter().map(|group| (&*group.name, group.sockets.len()));
        // Beside the channel and the counters.
        let others = 1 + MAX_SEGMENTS;
        let (mut sockets, mut bytes) =
            (0, "LISTEN_FDNAMES=".len() + HANDOFF.len() + 1 + MAX_SEGMENTS * (SEGMENT.len() + 1));
        for (name, count) in groups.chain([(name, more)]) {
            sockets += count;
            bytes += count * (name.len() + 1);
        }
        if sockets + others <= usize::try_from(MAX_FDS).unwrap_or(0) && bytes <= MAX_VARIABLE {
            return Ok(());
        }
        Err(Error::TooManySockets { name: name.to_owned(), sockets })
    }

    fn adopt(
        &mut self,
        name: &str,
        wanted: &ListenAddr,
        options: &ListenOptions,
    ) -> Result<Option<Group>, Error> {
        let fits = |socket: &&InheritedSocket| wanted.is_satisfied_by(&socket.address);
        let found = self.inherited.iter().filter(|socket| socket.name == name).find(fits);
        // A listener that was renamed keeps its sockets; but any port would do for port 0, another's too.
        let renamed = || self.inherited.iter().find(|socket| socket.address == *wanted);
        let Some(found) = found.or_else(renamed) else {
            // The service manager would pass it at the next start, too.
            let passed = self.inherited.iter().find(|socket| socket.name == name && socket.lent);
            return match passed {
                Some(passed) => Err(Error::WrongSocket {
                    name: name.to_owned(),
                    bound: passed.address.clone(),
                    wanted: wanted.clone(),
                }),
                None => Ok(None),
            };
        };
        let (old_name, address, lent) = (found.name.clone(), found.address.clone(), found.lent);
        let is_of_group = |socket: &mut InheritedSocket| socket.name == old_name && socket.address == address;
        let sockets = self.inherited.extract_if(.., is_of_group).map(|socket| socket.socket).collect();
        Ok(Some(Group {
            name: name.into(),
            address,
            audience: options.audience,
            sockets,
            adopted_as: Some(old_name),
            lent,
        }))
    }

    fn bind(&self, name: &str, wanted: &ListenAddr, options: &ListenOptions) -> Result<Group, Error> {
        let bound = match wanted {
            ListenAddr::Tcp(address) => self.bind_tcp(*address, options),
            ListenAddr::Unix(path) => bind_unix(path, options).map(|socket| (wanted.clone(), vec![socket])),
        };
        let (address, sockets) =
            bound.map_err(|cause| Error::Listen { name: name.to_owned(), address: wanted.clone(), cause })?;
        let name = name.into();
        Ok(Group { name, address, audience: options.audience, sockets, adopted_as: None, lent: false })
    }

    fn bind_tcp(
        &self,
        wanted: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<(ListenAddr, Vec<OwnedFd>)> {
        // With SO_REUSEPORT a bind succeeds beside any other process of the same user that has set it too,
        // and the two would share the port unawares. A bind without it tells, unless the port is ours.
        let ours = self.inherited.iter().map(|socket| &socket.address);
        let ours = ours.chain(self.groups.iter().map(|group| &group.address));
        let is_same_port =
            |address: &ListenAddr| matches!(address, ListenAddr::Tcp(have) if have.port() == wanted.port());
        if wanted.port() != 0 && !ours.into_iter().any(is_same_port) {
            // It does not listen: a client would be accepted, and reset in a moment.
            bound_socket(wanted, false)?;
        }

        let listen = |address| -> io::Result<Socket> {
            let socket = bound_socket(address, true)?;
            socket.listen(options.backlog.try_into().unwrap_or(i32::MAX))?;
            Ok(socket)
        };
        let first = listen(wanted)?;
        let address = first.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        let mut sockets = vec![first.into()];
        while sockets.len() < options.sockets {
            sockets.push(listen(address)?.into());
        }
        Ok((ListenAddr::Tcp(address), sockets))
    }
}

impl Group {
    fn listener(&self, i: usize) -> Result<Listener, Error> {
        let socket = self.sockets[i].try_clone().map_err(Error::system("duplicate a listening socket"))?;
        Ok(Listener {
            name: self.name.clone(),
            address: self.address.clone(),
            audience: self.audience,
            socket,
            lent: self.lent,
        })
    }
}

fn bound_socket(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    if address.is_ipv6() {
        // `[::]:80` is IPv6 alone, so that it can stand beside `0.0.0.0:80`.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn bind_unix(path: &Path, options: &ListenOptions) -> io::Result<OwnedFd> {
    // Two processes that both find a dead socket must not remove each other's new one.
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let _lock = Flock::lock(File::open(folder)?, FlockArg::LockExclusive)
        .map_err(|(_, errno)| io::Error::from(errno))?;

    remove_dead_socket(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    // On the socket before it is bound: there is no instant at which the file is wider open than it should
    // be. After: wider than the umask would have it.
    nix::sys::stat::fchmod(socket.as_fd(), nix::sys::stat::Mode::from_bits_truncate(options.unix_mode))?;
    socket.bind(&SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, Permissions::from_mode(options.unix_mode))?;
    socket.listen(options.backlog.try_into().unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Removes the socket that a process left behind when it was killed; an error if one listens there.
fn remove_dead_socket(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file there is not a socket")),
    }
    // Without blocking: a queue that is full would hold this process, and says that someone listens.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Ok(()) => Err(io::Error::new(io::ErrorKind::AddrInUse, "a process listens there")),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "a process listens there, and its queue is full"))
        }
        Err(error) => Err(error),
    }
}

/// The address of a listening stream socket that came from outside.
pub(crate) fn inspect(socket: &OwnedFd) -> io::Result<ListenAddr> {
    let socket = socket2::SockRef::from(socket);
    if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let address = socket.local_addr()?;
    if let Some(address) = address.as_socket() {
        return Ok(ListenAddr::Tcp(address));
    }
    match address.as_pathname() {
        Some(path) => Ok(ListenAddr::Unix(path.to_path_buf())),
        None => Err(io::Error::new(io::ErrorKind::Unsupported, "neither TCP nor a Unix socket with a path")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(name: &str, sockets: usize) -> Result<ListenAddr, Error> {
        let any = ListenAddr::Tcp(([127, 0, 0, 1], 0).into());
        Listeners::new(Vec::new()).open(name, &any, &ListenOptions { sockets, ..Default::default() })
    }

    /// It served, and then each upgrade failed: the new process could not tell the names apart.
    #[test]
    fn a_name_that_cannot_be_handed_on_is_refused() {
        for name in ["", "a:b", "a\nb", "ä", HANDOFF, "exuvia-segment-1", &"x".repeat(256)] {
            assert!(matches!(open(name, 1), Err(Error::ListenerName(_))), "{name:?}");
        }
        assert!(open("web-1.a_b", 1).is_ok());
    }

    /// It served, and then each upgrade failed: "Argument list too long", or more sockets than the new process
    /// would take.
    #[test]
    fn more_sockets_than_can_be_handed_on_are_refused() {
        assert!(matches!(open("web", 4096), Err(Error::TooManySockets { sockets: 4096, .. })));
        let long = "x".repeat(255);
        assert!(matches!(open(&long, 512), Err(Error::TooManySockets { sockets: 512, .. })));
    }
}
