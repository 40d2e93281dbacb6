//! Where the control socket is, and that nobody else can be there.

use std::env;
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;

use super::StatusReport;
use super::client::{self, ClientError};

/// The permissions of the socket: its owner alone.
pub const MODE: u32 = 0o600;

/// How long a process that holds the socket may take to say who it is.
const CONFLICT_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the control socket is unless it is named: `/run/exuvia/control.sock` for root; otherwise
/// `$XDG_RUNTIME_DIR/exuvia/control.sock`, or `/tmp/exuvia-UID/control.sock` where there is none.
pub fn default_path() -> PathBuf {
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    folder(geteuid().as_raw(), runtime).join("control.sock")
}

/// Where it is for root.
pub fn root_path() -> PathBuf {
    folder(0, None).join("control.sock")
}

fn folder(uid: u32, runtime: Option<PathBuf>) -> PathBuf {
    match runtime {
        // What root inherits from the user who became root is that user's.
        _ if uid == 0 => PathBuf::from("/run/exuvia"),
        // A relative one is to be ignored, says the XDG Base Directory Specification.
        Some(runtime) if runtime.is_absolute() => runtime.join("exuvia"),
        _ => PathBuf::from(format!("/tmp/exuvia-{uid}")),
    }
}

/// Why a folder cannot hold the control socket.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be made or looked at.
    #[error(
        "cannot {what} the control socket's folder {}: {cause}; control.socket names another place",
        folder.display()
    )]
    System {
        /// What was to be done.
        what: &'static str,
        /// The folder.
        folder: PathBuf,
        /// What is wrong.
        cause: io::Error,
    },
    /// The folder above it is not there.
    #[error(
        "cannot make the control socket's folder {}: the folder above it does not exist; make it, or name another \
         with control.socket",
        folder.display()
    )]
    NoParent {
        /// The folder.
        folder: PathBuf,
    },
    /// It belongs to someone else, who could put a socket of his own there.
    #[error(
        "the control socket's folder {} belongs to uid {owner}, not to uid {us} or root; \
         name a folder of your own with control.socket",
        folder.display()
    )]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user of this process.
        us: u32,
    },
    /// Others can write to it.
    #[error(
        "others can write to the control socket's folder {} (mode {mode:04o}); take that away \
         (chmod go-w) or name a private folder with control.socket",
        folder.display()
    )]
    Open {
        /// The folder.
        folder: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Something else has its name.
    #[error(
        "{} is not a folder, so the control socket cannot be in it; name another place with control.socket",
        folder.display()
    )]
    NotAFolder {
        /// What should be a folder.
        folder: PathBuf,
    },
}

/// Makes the folder for a control socket at `path` if it is missing, with mode 0700, and checks that nobody
/// but this user and root can put anything there. The folder above it must exist.
///
/// # Errors
///
/// If it cannot be made, belongs to another user, or is writable for others; a sticky bit does not help,
/// since others could take the name of the socket first.
pub fn prepare(path: &Path) -> Result<(), FolderError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let system = |what| {
        let folder = folder.to_path_buf();
        move |cause| FolderError::System { what, folder, cause }
    };
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        // Only the last folder is ours to make.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(FolderError::NoParent { folder: folder.to_path_buf() });
        }
        made => made.map_err(system("make"))?,
    }
    let us = geteuid().as_raw();
    // A symbolic link is as good as who made it.
    let link = fs::symlink_metadata(folder).map_err(system("look at"))?;
    let metadata = fs::metadata(folder).map_err(system("look at"))?;
    if let Some(owner) = [&link, &metadata].map(|it| it.uid()).into_iter().find(|uid| ![us, 0].contains(uid))
    {
        return Err(FolderError::Foreign { folder: folder.to_path_buf(), owner, us });
    }
    if !metadata.is_dir() {
        return Err(FolderError::NotAFolder { folder: folder.to_path_buf() });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(FolderError::Open { folder: folder.to_path_buf(), mode });
    }
    Ok(())
}

/// Who holds the control socket at `path`, in words for the one who cannot have it. Waits for an answer for
/// at most a second.
pub fn describe_conflict(path: &Path) -> String {
    // On a thread of its own, as the caller may be in a runtime or not.
    let asked = std::thread::scope(|scope| scope.spawn(|| ask(path)).join());
    match asked {
        Ok(Ok(StatusReport { status, .. })) => format!(
            "exuvia is already running with the control socket {} (pid {}, generation {}); `exuvia upgrade` replaces \
             it, `exuvia stop` ends it, and another one beside it needs its own control.socket",
            path.display(),
            status.pid,
            status.generation
        ),
        Ok(Err(error)) => format!("another process listens there{}: {error}", Binder::of(path)),
        Err(_) => "another process listens there".into(),
    }
}

fn ask(path: &Path) -> Result<StatusReport, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| ClientError::Connect { path: path.to_path_buf(), cause })?;
    runtime.block_on(async {
        let request = client::status(path);
        let silent = || ClientError::Silent { path: path.to_path_buf(), waited: CONFLICT_TIMEOUT };
        let answer = tokio::time::timeout(CONFLICT_TIMEOUT, request).await.map_err(|_| silent())??;
        answer.json(path)
    })
}

/// Who bound a socket, as far as the kernel knows.
struct Binder(Option<i32>);

impl Binder {
    /// SO_PEERCRED tells who called listen(2): the first generation, or systemd, which may both be gone.
    fn of(path: &Path) -> Binder {
        let credentials = UnixStream::connect(path).ok().and_then(|stream| {
            let credentials = getsockopt(&stream, PeerCredentials).ok()?;
            Some(credentials.pid()).filter(|pid| *pid > 0)
        });
        Binder(credentials)
    }
}

impl fmt::Display for Binder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, " (on a socket that pid {pid} opened)"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::io::{Read, Write};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn each_user_has_a_place() {
        let runtime = || Some(PathBuf::from("/run/user/1000"));
        assert_eq!(folder(0, None), Path::new("/run/exuvia"));
        assert_eq!(folder(0, runtime()), Path::new("/run/exuvia"));
        assert_eq!(folder(1000, runtime()), Path::new("/run/user/1000/exuvia"));
        assert_eq!(folder(1000, None), Path::new("/tmp/exuvia-1000"));
        assert_eq!(folder(1000, Some("run".into())), Path::new("/tmp/exuvia-1000"));
        assert_eq!(folder(1000, Some("".into())), Path::new("/tmp/exuvia-1000"));
    }

    #[test]
    fn a_missing_folder_is_made_private() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("exuvia");
        prepare(&folder.join("control.sock")).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        prepare(&folder.join("control.sock")).unwrap();
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o1777, 0o777, 0o770, 0o702] {
            fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
            let error = prepare(&folder.path().join("control.sock")).unwrap_err();
            assert!(matches!(error, FolderError::Open { mode: found, .. } if found == mode), "{error}");
        }
        for mode in [0o700, 0o755, 0o2750] {
            fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
            prepare(&folder.path().join("control.sock")).unwrap();
        }
        assert!(matches!(prepare(Path::new("/tmp/control.sock")), Err(FolderError::Open { .. })));
    }

    #[test]
    fn what_is_no_folder_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(prepare(&file.join("control.sock")), Err(FolderError::NotAFolder { .. })));
        let error = prepare(&parent.path().join("a/b/control.sock")).unwrap_err();
        assert!(matches!(error, FolderError::NoParent { .. }), "{error}");
    }

    /// In a shared folder anyone can make a link to a folder of ours, and turn it later. Only root can make
    /// what belongs to another user.
    #[test]
    fn a_folder_or_link_of_another_user_is_refused() {
        if !geteuid().is_root() {
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        let (folder, link) = (parent.path().join("folder"), parent.path().join("link"));
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        symlink(&folder, &link).unwrap();
        prepare(&link.join("control.sock")).unwrap();
        std::os::unix::fs::lchown(&link, Some(65534), None).unwrap();
        let error = prepare(&link.join("control.sock")).unwrap_err();
        assert!(matches!(error, FolderError::Foreign { owner: 65534, us: 0, .. }), "{error}");
        std::os::unix::fs::lchown(&folder, Some(65534), None).unwrap();
        assert!(matches!(prepare(&folder.join("control.sock")), Err(FolderError::Foreign { .. })));
    }

    #[test]
    fn the_one_who_holds_the_socket_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let status = r#"{"generation":3,"pid":4711,"version":"0.1.0","phase":"serving","executable":"/x",
            "listeners":[],"accept_errors":0,"last_upgrade":null,"generations":[]}"#;
        let holder = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /v1/status HTTP/1.1\r\n"));
            let length = status.len();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{status}").unwrap();
        });
        let words = describe_conflict(&path);
        let expected =
            format!("already running with the control socket {} (pid 4711, generation 3); ", path.display());
        assert!(words.contains(&expected), "{words}");
        holder.join().unwrap();
    }

    #[test]
    fn one_that_says_nothing_is_named_by_who_opened_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let _silent = UnixListener::bind(&path).unwrap();
        let words = describe_conflict(&path);
        let opened = format!("(on a socket that pid {} opened)", std::process::id());
        assert!(words.starts_with("another process listens there ") && words.contains(&opened), "{words}");
        assert!(words.contains("1 s"), "{words}");
    }
}
