//! The file that tells other programs the owner's pid.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::error::Error;

/// Writes this process's pid to `path`, in one step: a reader finds the old pid or the new one.
pub(crate) fn write(path: &Path) -> Result<(), Error> {
    let temporary = temporary(path);
    let write = || {
        let mut file = create(&temporary)?;
        writeln!(file, "{}", std::process::id())?;
        drop(file);
        fs::rename(&temporary, path)
    };
    write().map_err(|cause| {
        remove_silently(&temporary);
        Error::File { what: "write the PID file", path: path.to_owned(), cause }
    })
}

/// Whether [`write()`] would succeed, found out without touching the file itself.
pub(crate) fn check(path: &Path) -> Result<(), Error> {
    let temporary = temporary(path);
    let tried = create(&temporary).map(drop);
    remove_silently(&temporary);
    tried.map_err(|cause| Error::File { what: "write the PID file", path: path.to_owned(), cause })
}

/// Removes the file, unless another process has put its own pid there.
pub(crate) fn remove(path: &Path) {
    let ours = |text: String| text.trim().parse() == Ok(std::process::id());
    match fs::read_to_string(path).map(ours) {
        Ok(true) => remove_silently(path),
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "cannot read the PID file"),
    }
}

/// A new file: where others may write to the folder, its name could be a link that they have put there.
fn create(temporary: &Path) -> io::Result<File> {
    // What a process with the same pid has left behind.
    remove_silently(temporary);
    OpenOptions::new().write(true).create_new(true).open(temporary)
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    path.with_file_name(name)
}

fn remove_silently(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove the file");
    }
}
