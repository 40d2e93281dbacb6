//! How this process was started, so that the next generation can be started in the same way.

use std::env;
use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::error::Error;

/// The program, its arguments, its directory and its environment, captured before anything could move.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    /// Absolute, with its symbolic links as they were given: a release that a link leads to is followed
    /// anew at each upgrade. Never `/proc/self/exe`, which is the file of the past.
    pub(crate) executable: PathBuf,
    pub(crate) argv: Vec<OsString>,
    pub(crate) directory: PathBuf,
    /// Without the variables of a hand-over.
    pub(crate) environment: Vec<(OsString, OsString)>,
}

impl Invocation {
    /// Captures how this process was started. `executable` is what the predecessor knew, if there was one:
    /// a relative first argument may not lead there any more.
    pub(crate) fn capture(executable: Option<PathBuf>) -> Result<Invocation, Error> {
        let argv: Vec<OsString> = env::args_os().collect();
        // A directory that was removed has no name; "/" is as good as any for what follows.
        let directory = env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let executable = match executable {
            Some(executable) => executable,
            None => {
                let argv0 = argv.first().cloned().unwrap_or_default();
                resolve(Path::new(&argv0), &directory).map_err(|cause| Error::Executable { argv0, cause })?
            }
        };
        Ok(Invocation { executable, argv, directory, environment: env::vars_os().collect() })
    }

    /// A path of the settings, which begins where the process was started.
    pub(crate) fn absolute(&self, path: &Path) -> PathBuf {
        join(&self.directory, path)
    }
}

/// What a shell would execute for `argv0` in `directory`: itself if it names a folder, else the first
/// executable of that name in `PATH`.
fn resolve(argv0: &Path, directory: &Path) -> io::Result<PathBuf> {
    if argv0.as_os_str().is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    if argv0.components().count() > 1 || argv0.is_absolute() {
        return Ok(join(directory, argv0));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let mut candidates = env::split_paths(&path).map(|folder| directory.join(folder).join(argv0));
    candidates
        .find(|candidate| nix::unistd::access(candidate, nix::unistd::AccessFlags::X_OK).is_ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it is not in PATH"))
}

/// `relative` as seen from `directory`, which the kernel has named and which therefore has no links in it: each
/// `..` that `relative` begins with takes a name away, so that the path holds when the directory is removed.
/// Behind a name `..` stays, for the name may be a link.
fn join(directory: &Path, relative: &Path) -> PathBuf {
    let mut directory = directory.to_owned();
    let mut rest = relative;
    loop {
        rest = if let Ok(behind) = rest.strip_prefix("..") {
            directory.pop();
            behind
        } else if let Ok(behind) = rest.strip_prefix(".") {
            behind
        } else {
            return directory.join(rest);
        };
    }
}

/// A text for execve(2); an error if it has a NUL in it.
pub(crate) fn c_string(text: impl Into<OsString>) -> io::Result<CString> {
    CString::new(text.into().into_vec()).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_holds_when_the_directory_is_gone() {
        let from = |relative: &str| join(Path::new("/srv/app/work"), Path::new(relative));
        assert_eq!(from("./bin/exuvia"), Path::new("/srv/app/work/bin/exuvia"));
        assert_eq!(from("../bin/exuvia"), Path::new("/srv/app/bin/exuvia"));
        assert_eq!(from(".././../bin/../exuvia"), Path::new("/srv/bin/../exuvia"));
        assert_eq!(from("../../../../exuvia"), Path::new("/exuvia"));
        assert_eq!(from("/opt/current/exuvia"), Path::new("/opt/current/exuvia"));
    }
}
