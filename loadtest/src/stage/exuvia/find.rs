//! Where exuvia's program is.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::super::Error;

/// Finds the program: as named; else, if cargo has started this process in the project's own folder, one that is
/// built now so that it is never stale; else beside the running executable. Blocks as long as a build takes.
///
/// # Errors
///
/// If there is none, or it cannot be built; what to do is in the error.
pub fn find(named: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(path) = named {
        return executable(path).ok_or_else(|| Error::NoExuvia { place: format!("at {}", path.display()) });
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    if let Some(cargo) = std::env::var_os("CARGO").filter(|_| manifest.is_file()) {
        return build(&cargo, &manifest);
    }
    let this = std::env::current_exe();
    let this = this.map_err(|cause| Error::Start { name: "the witness's own program".into(), cause })?;
    let beside = this.with_file_name("exuvia");
    executable(&beside).ok_or_else(|| Error::NoExuvia { place: format!("beside {}", this.display()) })
}

fn executable(path: &Path) -> Option<PathBuf> {
    let metadata = path.metadata().ok()?;
    (metadata.is_file() && metadata.permissions().mode() & 0o111 != 0).then(|| path.to_owned())
}

/// Has cargo build it with the profile of this program, and tell where it is.
fn build(cargo: &OsStr, manifest: &Path) -> Result<PathBuf, Error> {
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--message-format=json-render-diagnostics", "--bin", "exuvia"]);
    command.arg("--manifest-path").arg(manifest).stdin(Stdio::null());
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.output().map_err(|cause| Error::Start { name: "cargo".into(), cause })?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(Error::Build { output: said });
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    built(&messages).ok_or_else(|| Error::Build { output: format!("{said}(it names no program)") })
}

/// The program that cargo's messages, one JSON document a line, name.
fn built(messages: &str) -> Option<PathBuf> {
    let documents = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut programs = documents.filter(|message| message["target"]["name"] == "exuvia");
    programs.find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_names_the_program() {
        let library = r#"{"reason":"compiler-artifact","target":{"name":"exuvia"},"executable":null}"#;
        let program = r#"{"reason":"compiler-artifact","target":{"name":"exuvia"},"executable":"/x/exuvia"}"#;
        assert_eq!(built(&format!("{library}\n{program}\nnonsense\n")), Some("/x/exuvia".into()));
        assert_eq!(built(library), None);
    }

    #[test]
    fn a_program_that_is_not_there_is_told() {
        let error = find(Some(Path::new("/nonexistent/exuvia"))).unwrap_err().to_string();
        assert!(error.contains("at /nonexistent/exuvia") && error.contains("--exuvia PATH"), "{error}");
        let text = tempfile::NamedTempFile::new().unwrap();
        assert!(find(Some(text.path())).is_err(), "it cannot be executed");
    }
}
