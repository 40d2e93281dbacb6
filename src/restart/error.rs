//! What can go wrong in the core: always the step that failed, what it was done to, and the cause.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use super::address::ListenAddr;
use super::state::Failure;

/// An error of the restart core.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// [`Startup::begin`](super::Startup::begin) was called too late.
    #[error("Startup::begin must be called before any thread is started, but this process has {threads}")]
    NotSingleThreaded {
        /// How many threads there are.
        threads: usize,
    },
    /// The program's own file cannot be told from how it was started.
    #[error("cannot tell which file {argv0:?} is, so it could not be started again: {cause}")]
    Executable {
        /// The first argument.
        argv0: OsString,
        /// What is wrong.
        cause: io::Error,
    },
    /// `LISTEN_FDS` or `LISTEN_FDNAMES` is not as sd_listen_fds(3) has it.
    #[error("the environment's {variable}={value:?} is not as sd_listen_fds(3) defines it")]
    ListenVariable {
        /// Its name.
        variable: &'static str,
        /// Its value.
        value: OsString,
    },
    /// An inherited descriptor is not a listening socket.
    #[error("inherited descriptor {fd} (named {name:?}) is not a listening stream socket: {cause}")]
    NotAListener {
        /// Its number.
        fd: i32,
        /// Its name in `LISTEN_FDNAMES`.
        name: String,
        /// What is wrong.
        cause: io::Error,
    },
    /// The two generations do not understand each other.
    #[error("hand-off: {0}")]
    Handoff(String),
    /// Two listeners have the same name.
    #[error("two listeners are named {0:?}")]
    DuplicateListener(String),
    /// A name that cannot be handed on in `LISTEN_FDNAMES`.
    #[error(
        "{0:?} cannot be the name of a listener: expected 1 to 255 printable ASCII characters other than ':', \
         and not the name of the hand-off channel"
    )]
    ListenerName(String),
    /// With this listener there are more sockets than can be handed to the next generation.
    #[error(
        "listener {name:?}: {sockets} sockets, or their names, are more than can be handed to the next \
         generation; have fewer listeners, or fewer workers"
    )]
    TooManySockets {
        /// The listener.
        name: String,
        /// How many sockets there would be, over all listeners.
        sockets: usize,
    },
    /// A service manager gave a socket of this name that is bound elsewhere.
    #[error(
        "listener {name:?}: the socket that was passed for it is bound to {bound}, but the settings say {wanted}"
    )]
    WrongSocket {
        /// The listener.
        name: String,
        /// Where the socket is bound.
        bound: ListenAddr,
        /// Where it should be.
        wanted: ListenAddr,
    },
    /// A listener cannot be bound.
    #[error("listener {name:?}: cannot listen on {address}: {cause}")]
    Listen {
        /// The listener.
        name: String,
        /// Where it should listen.
        address: ListenAddr,
        /// What is wrong.
        cause: io::Error,
    },
    /// A call of the operating system failed.
    #[error("cannot {what}: {cause}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// What is wrong.
        cause: io::Error,
    },
    /// A file cannot be written or removed.
    #[error("cannot {what} {path:?}: {cause}")]
    File {
        /// What was to be done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// What is wrong.
        cause: io::Error,
    },
}

impl Error {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |cause| Error::System { what, cause }
    }

    /// The step of an upgrade in which this error arises.
    pub fn step(&self) -> &'static str {
        match self {
            Error::NotSingleThreaded { .. } | Error::Executable { .. } => "start",
            Error::ListenVariable { .. } | Error::NotAListener { .. } => "inherit",
            Error::Handoff(_) => "handoff",
            Error::DuplicateListener(_)
            | Error::ListenerName(_)
            | Error::TooManySockets { .. }
            | Error::WrongSocket { .. }
            | Error::Listen { .. } => "listeners",
            Error::System { .. } => "system",
            Error::File { .. } => "file",
        }
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Failure {
        Failure::new(error.step(), error.to_string())
    }
}
