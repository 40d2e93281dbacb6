//! Where a running exuvia may be, for one who has not reached it: nobody is told that it is not running by somebody who
//! cannot know.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};
use socket2::{Domain, SockAddr, Socket, Type};

use super::socket;

/// How much is told: the machine may be full of them.
const MOST: usize = 8;
/// How long a command line may be, in characters.
const MAX_COMMAND: usize = 160;
/// Commands that ask and serve nothing.
const ASKING: [&str; 7] = ["upgrade", "rollback", "status", "stop", "check", "completions", "help"];

/// What was found beside the control socket that did not answer.
#[derive(Debug)]
pub struct Search {
    sockets: Vec<(PathBuf, Found)>,
    processes: Vec<Processes>,
}

/// What is at a path.
#[derive(Debug)]
enum Found {
    Nothing,
    /// The first folder that could not be looked into, or the path itself, and what is wrong.
    Hidden(PathBuf, io::Error),
    NotASocket,
    Abandoned,
    /// A process listens; its socket's owner, and whether this user may speak with it.
    Listens {
        owner: u32,
        reachable: bool,
    },
}

/// Processes of one user that were started alike: one exuvia, most likely.
#[derive(Debug, PartialEq, Eq)]
struct Processes {
    pids: Vec<u32>,
    owner: u32,
    command: String,
}

impl Search {
    /// Looks wherever exuvia puts its control socket unless it is told to put it elsewhere, but for `asked`, and for
    /// processes that have its name.
    pub fn beside(asked: &Path) -> Search {
        let mut paths = vec![socket::default_path(), socket::root_path()];
        paths
            .extend(folders_of("/tmp", |name| name.starts_with("exuvia-")).map(|it| it.join("control.sock")));
        paths.extend(folders_of("/run/user", |_| true).map(|it| it.join("exuvia/control.sock")));
        let usual = paths.len().min(2);
        let table = fs::read("/proc/net/unix").unwrap_or_default();
        paths.extend(listening(&table));

        let mut sockets: Vec<(PathBuf, Found)> = Vec::new();
        for (i, path) in paths.into_iter().enumerate() {
            if path == asked || sockets.iter().any(|(known, _)| *known == path) {
                continue;
            }
            let found = look(&path);
            // Of those that others may have, the ones that are there.
            let is_told = i < usual || matches!(found, Found::Listens { .. } | Found::Abandoned);
            if is_told || table_has(&table, &path) {
                sockets.push((path, found));
            }
        }
        sockets.truncate(MOST);
        Search { sockets, processes: processes() }
    }
}

impl fmt::Display for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.sockets.is_empty() {
            writeln!(f, "looked for other control sockets, too:")?;
        }
        for (path, found) in &self.sockets {
            writeln!(f, "    {}: {found}", path.display())?;
        }
        for Processes { pids, owner, command } in self.processes.iter().take(MOST) {
            let pids: Vec<String> = pids.iter().take(MOST).map(ToString::to_string).collect();
            writeln!(f, "running as {}: pid {}, `{command}`", user(*owner), pids.join(", "))?;
        }
        if self.processes.is_empty() {
            writeln!(f, "no process with the name exuvia is to be seen; `exuvia run` starts one")?;
        }
        write!(
            f,
            "name its control socket with --control SOCKET, or the configuration that it was started with by --config; \
             it answers the user that it runs as, and root"
        )
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Nothing => write!(f, "there is none"),
            Found::Hidden(place, cause) => {
                let owner = fs::symlink_metadata(place).map(|it| format!(" of {}", user(it.uid())));
                write!(f, "cannot look at {}{}: {cause}", place.display(), owner.unwrap_or_default())
            }
            Found::NotASocket => write!(f, "is not a socket"),
            Found::Abandoned => write!(f, "nobody listens; a process that was killed left it behind"),
            Found::Listens { owner, reachable: true } => {
                write!(f, "a process listens there, of {}", user(*owner))
            }
            Found::Listens { owner, reachable: false } => {
                write!(f, "permission denied; it belongs to {}", user(*owner))
            }
        }
    }
}

fn user(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("uid {uid} ({})", user.name),
        _ => format!("uid {uid}"),
    }
}

fn folders_of(parent: &str, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.filter(move |entry| entry.file_name().to_str().is_some_and(&wanted)).map(|entry| entry.path())
}

/// Whether a folder has a name that is given to one for a control socket, such as `exuvia-1000`.
fn is_ours(folder: &str) -> bool {
    let user = folder.strip_prefix("exuvia-");
    folder == "exuvia"
        || user.is_some_and(|uid| !uid.is_empty() && uid.bytes().all(|byte| byte.is_ascii_digit()))
}

fn look(path: &Path) -> Found {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
        Err(error) => {
            let closed = |folder: &&Path| fs::metadata(folder).is_ok();
            let place = path.ancestors().skip(1).find(closed).unwrap_or(path);
            return Found::Hidden(place.to_path_buf(), error);
        }
    };
    if !metadata.file_type().is_socket() {
        return Found::NotASocket;
    }
    let owner = metadata.uid();
    match try_connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Found::Abandoned,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Found::Listens { owner, reachable: false }
        }
        // One that is too busy to accept listens, too.
        _ => Found::Listens { owner, reachable: true },
    }
}

fn try_connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// The paths of sockets in `/proc/net/unix` (proc_net(5)) on which somebody listens and which have the name of a control
/// socket of exuvia's, wherever their folder is.
fn listening(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    let is_control = |path: &PathBuf| {
        let folder = path.parent().and_then(Path::file_name).and_then(OsStr::to_str);
        path.file_name() == Some(OsStr::new("control.sock")) && folder.is_some_and(is_ours)
    };
    bound_and_listening(table).filter(is_control)
}

fn table_has(table: &[u8], path: &Path) -> bool {
    bound_and_listening(table).any(|bound| bound == path)
}

fn bound_and_listening(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    /// `__SO_ACCEPTCON`.
    const LISTENS: &[u8] = b"00010000";
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let fields: Vec<&[u8]> = line.splitn(8, |byte| *byte == b' ').map(<[u8]>::trim_ascii).collect();
        let [_, _, _, flags, .., path] = &fields[..] else { return None };
        // The number before the path is padded on the left.
        let path = path.trim_ascii_start();
        let start = path.iter().position(|byte| *byte == b'/')?;
        (*flags == LISTENS).then(|| PathBuf::from(OsStr::from_bytes(&path[start..])))
    })
}

/// The processes with the name of this program that may serve, but for this one.
fn processes() -> Vec<Processes> {
    let mut alike: BTreeMap<(u32, String), Vec<u32>> = BTreeMap::new();
    let own = std::process::id();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.filter(|pid| *pid != own) else { continue };
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        if read("comm").trim_ascii() != b"exuvia" {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        if let Some(command) = serving(&read("cmdline")) {
            alike.entry((metadata.uid(), command)).or_default().push(pid);
        }
    }
    let processes = alike.into_iter().map(|((owner, command), mut pids)| {
        pids.sort_unstable();
        Processes { pids, owner, command }
    });
    processes.collect()
}

/// How a process that may serve was started; `None` for one that has ended, or only asks another.
fn serving(cmdline: &[u8]) -> Option<String> {
    let words: Vec<String> = cmdline
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .filter(|word| !word.is_empty())
        .collect();
    let asks = words.iter().skip(1).any(|word| ASKING.contains(&word.as_str()));
    let command: String = words.join(" ").chars().take(MAX_COMMAND).collect();
    (!asks && !words.is_empty()).then_some(command)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn listening_sockets_are_found_in_the_kernels_table() {
        let table = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 16217 /run/exuvia/control.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01     7 /srv/a b/exuvia-7/control.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 16219 /run/exuvia-9/control.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 16220 /run/exuvia-x/control.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 16221 @abstract\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 16222\n";
        let found: Vec<PathBuf> = listening(table).collect();
        assert_eq!(found, ["/run/exuvia/control.sock", "/srv/a b/exuvia-7/control.sock"].map(PathBuf::from));
        assert!(table_has(table, Path::new("/run/exuvia-x/control.sock")));
    }

    #[test]
    fn the_kernels_own_table_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exuvia-7/control.sock");
        fs::create_dir(path.parent().unwrap()).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        let table = fs::read("/proc/net/unix").unwrap();
        assert!(listening(&table).any(|found| found == path));
        assert!(matches!(look(&path), Found::Listens { reachable: true, .. }));
        let words = Search::beside(Path::new("/nowhere/control.sock")).to_string();
        assert!(words.contains("--control SOCKET") && words.contains("/run/exuvia/control.sock"), "{words}");
    }

    #[test]
    fn what_is_at_a_path_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        assert!(matches!(look(&path), Found::Nothing));
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(look(&path), Found::Abandoned));
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(matches!(look(&path), Found::NotASocket));
        assert!(matches!(look(&path.join("below")), Found::Hidden(..)));
    }

    #[test]
    fn a_process_that_only_asks_is_not_one_that_serves() {
        assert_eq!(serving(b"exuvia\0run\0-c\0/x.toml\0").as_deref(), Some("exuvia run -c /x.toml"));
        assert_eq!(serving(b"/opt/exuvia\0").as_deref(), Some("/opt/exuvia"));
        assert_eq!(serving(b"exuvia\0-c\0/x.toml\0status\0--watch\0"), None);
        assert_eq!(serving(b""), None);
    }
}
