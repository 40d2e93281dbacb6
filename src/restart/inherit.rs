//! What a process got from the one that started it: sockets, in systemd's protocol and no other.
//!
//! `LISTEN_FDS` tells how many descriptors there are from 3 up, `LISTEN_FDNAMES` their names, separated by
//! colons, and `LISTEN_PID` whom they are meant for (sd_listen_fds(3)). It serves socket activation,
//! systemd's descriptor store, and an upgrade, in which the old process plays systemd's part and adds one
//! descriptor named [`HANDOFF`]. Counters of other generations come the same way, by [`SEGMENT`].

use std::env;
use std::ffi::{CStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::error::Error;
use super::listeners::{InheritedSocket, inspect};
use super::sys;

/// The name of the descriptor that leads to the parent in an upgrade.
pub(crate) const HANDOFF: &str = "exuvia-handoff";

const VARIABLES: [&CStr; 4] = [c"LISTEN_PID", c"LISTEN_FDS", c"LISTEN_FDNAMES", c"LISTEN_PIDFDID"];

/// The most descriptors that are taken; what says more is no honest `LISTEN_FDS`.
pub(crate) const MAX_FDS: RawFd = 4096;

/// The beginning of the names of descriptors that stand for counters; a descriptor store wants to tell them apart.
pub(crate) const SEGMENT: &str = "exuvia-segment";

/// The most of these that are handed over; there are two more than generations that are alive.
pub(crate) const MAX_SEGMENTS: usize = 128;

/// What was passed to this process.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) sockets: Vec<InheritedSocket>,
    /// The counters of other generations.
    pub(crate) segments: Vec<OwnedFd>,
    /// The channel to the parent, in an upgrade.
    pub(crate) handoff: Option<OwnedFd>,
}

/// Takes the descriptors, and the variables out of the environment, so that no program that this one may
/// start takes them for its own. An error if another thread is running already.
pub(crate) fn take() -> Result<Inherited, Error> {
    let variable = |name| env::var_os(name);
    let (pid, fds, names) = (variable("LISTEN_PID"), variable("LISTEN_FDS"), variable("LISTEN_FDNAMES"));
    sys::remove_variables(&VARIABLES)?;

    let Some(fds) = fds else { return Ok(Inherited::default()) };
    // Meant for another process, such as a shell that started this one: not ours to take.
    let pid_text = pid.clone().unwrap_or_default();
    let pid: Option<u32> = pid_text.to_str().and_then(|text| text.trim().parse().ok());
    match pid {
        None => return Err(Error::ListenVariable { variable: "LISTEN_PID", value: pid_text }),
        Some(pid) if pid != std::process::id() => return Ok(Inherited::default()),
        Some(_) => {}
    }

    let count = fds.to_str().and_then(|text| text.parse().ok()).filter(|count| (0..=MAX_FDS).contains(count));
    let Some(count) = count else { return Err(Error::ListenVariable { variable: "LISTEN_FDS", value: fds }) };
    let names = parse_names(names, count)?;
    let descriptors = sys::adopt_inherited(count).map_err(Error::system("take the inherited descriptors"))?;

    let mut inherited = Inherited::default();
    for (name, descriptor) in names.into_iter().zip(descriptors) {
        if name == HANDOFF {
            inherited.handoff = Some(descriptor);
            continue;
        }
        if name.starts_with(SEGMENT) {
            inherited.segments.push(descriptor);
            continue;
        }
        let address = inspect(&descriptor)
            .and_then(|address| {
                // systemd passes blocking sockets unless told otherwise.
                socket2::SockRef::from(&descriptor).set_nonblocking(true)?;
                Ok(address)
            })
            .map_err(|cause| Error::NotAListener { fd: descriptor.as_raw_fd(), name: name.clone(), cause })?;
        inherited.sockets.push(InheritedSocket { name, address, socket: descriptor, lent: false });
    }
    Ok(inherited)
}

fn parse_names(names: Option<OsString>, count: RawFd) -> Result<Vec<String>, Error> {
    let count = usize::try_from(count).unwrap_or(0);
    // An older service manager gives none; sd_listen_fds_with_names(3) calls them all "unknown".
    let Some(names) = names else { return Ok(vec!["unknown".to_owned(); count]) };
    let parsed: Option<Vec<String>> = names.to_str().map(|text| text.split(':').map(str::to_owned).collect());
    match parsed {
        Some(_) if count == 0 => Ok(Vec::new()),
        Some(list) if list.len() == count => Ok(list),
        _ => Err(Error::ListenVariable { variable: "LISTEN_FDNAMES", value: names }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_names_as_descriptors() {
        assert_eq!(parse_names(Some("a:b:a".into()), 3).unwrap(), ["a", "b", "a"]);
        assert_eq!(parse_names(None, 2).unwrap(), ["unknown", "unknown"]);
        assert!(parse_names(Some("".into()), 0).unwrap().is_empty());
        assert!(parse_names(Some("a:b".into()), 3).is_err());
        assert!(parse_names(Some("a:b".into()), 1).is_err());
    }
}
