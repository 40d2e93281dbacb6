//! The control socket as a file: who may reach it, and what is left of it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use super::harness::{Alone, Answer, Asking, EXUVIA, Exuvia, eventually, exuvia, is_alive, is_root, signal};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// `run` with this control socket, alone.
fn run(socket: &Path) -> Command {
    let mut command = exuvia(&["run", "--supervise=never"]);
    command.env("EXUVIA__LISTENERS__WEB__ADDRESS", "127.0.0.1:0").env("EXUVIA__CONTROL__SOCKET", socket);
    command.env("EXUVIA__RESTART__PROBATION", "0s").stdout(Stdio::null());
    command
}

fn ask(command: &str, socket: &Path) -> Answer {
    Answer::from(exuvia(&[command, "--control"]).arg(socket).output().unwrap())
}

#[test]
fn the_socket_and_the_folder_made_for_it_are_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("run/control.sock");
    let alone = Alone(run(&socket).stderr(Stdio::null()).spawn().unwrap());
    eventually("it answers", || (ask("status", &socket).code == 0).then_some(()));
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(&folder.path().join("run")), 0o700);
    assert_eq!(ask("upgrade", &socket).code, 0);
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(ask("stop", &socket).code, 0);
    assert_eq!(alone.wait(), 0);
    assert!(!socket.exists());
}

#[test]
fn what_a_killed_process_left_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let killed = Alone(run(&socket).stderr(Stdio::null()).spawn().unwrap());
    eventually("it answers", || (ask("status", &socket).code == 0).then_some(()));
    let pid = killed.0.id() as i32;
    signal(pid, Signal::SIGKILL);
    assert_eq!(killed.wait(), -1);
    assert!(!is_alive(pid) && fs::metadata(&socket).unwrap().file_type().is_socket());
    for command in ["status", "upgrade", "stop"] {
        let nobody = ask(command, &socket);
        assert_eq!(nobody.code, 4, "{nobody:?}");
        nobody.failed_with(&["nobody listens", "killed", &socket.display().to_string()]);
    }
    let next = Alone(run(&socket).stderr(Stdio::null()).spawn().unwrap());
    eventually("the next one answers", || (ask("status", &socket).code == 0).then_some(()));
    assert_eq!(ask("stop", &socket).code, 0);
    assert_eq!(next.wait(), 0);
}

#[test]
fn a_place_where_others_could_put_a_socket_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |socket: &Path, words: &[&str]| {
        let answer = Asking::begin(&mut run(socket)).answer();
        assert_eq!(answer.code, 1, "{answer:?}");
        answer.failed_with(words);
    };
    let open = folder.path().join("open");
    fs::create_dir(&open).unwrap();
    for bits in [0o777, 0o1777, 0o770] {
        set_mode(&open, bits);
        refused(&open.join("control.sock"), &[&open.display().to_string(), "others can write", "chmod go-w"]);
    }
    let deep = folder.path().join("a/b");
    refused(&deep.join("control.sock"), &[&deep.display().to_string(), "above it does not exist"]);
    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    refused(&file, &[&file.display().to_string(), "not a socket", "control.socket"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");

    if is_root() {
        let foreign = folder.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        set_mode(&foreign, 0o700);
        chown(&foreign, Some(65534), None).unwrap();
        refused(&foreign.join("control.sock"), &[&foreign.display().to_string(), "belongs to uid 65534"]);
    }
}

#[test]
fn another_user_may_ask_for_nothing() {
    if !is_root() {
        return;
    }
    let exuvia = Exuvia::start("");
    // A copy, since that user may not be able to reach the one that is tested.
    let program = exuvia.folder().join("copy");
    fs::copy(EXUVIA, &program).unwrap();
    set_mode(exuvia.folder(), 0o711);
    let ask = |command: &str| {
        let mut other = Command::new("setpriv");
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).arg(command);
        Answer::from(other.arg("--control").arg(exuvia.control()).current_dir("/").output().unwrap())
    };
    for command in ["status", "upgrade", "rollback", "stop"] {
        let denied = ask(command);
        assert_eq!(denied.code, 4, "{denied:?}");
        denied.failed_with(&["permission denied", &exuvia.control().display().to_string()]);
    }
    // Not even where the file lets him in.
    set_mode(&exuvia.control(), 0o666);
    for command in ["status", "upgrade", "rollback", "stop"] {
        let denied = ask(command);
        assert_eq!(denied.code, 4, "{denied:?}");
        denied.failed_with(&[command, "uid 65534", "uid 0"]);
    }
    assert_eq!((exuvia.generation(), exuvia.phase().as_str()), (1, "serving"));
    assert_eq!(exuvia.stop(), 0);
}

/// `status`, `upgrade` and `stop` of another user said that exuvia was not running, with a path that never was its
/// socket, while it ran as root.
#[test]
fn another_user_is_told_where_it_was_looked_for_and_what_could_not_be_seen() {
    if !is_root() {
        return;
    }
    // The place that root's has by default is hidden in the same way: in a folder of root's with mode 0700.
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("copy");
    fs::copy(EXUVIA, &program).unwrap();
    set_mode(folder.path(), 0o711);
    let socket = folder.path().join("exuvia-7/control.sock");
    let alone = Alone(run(&socket).stderr(Stdio::null()).spawn().unwrap());
    eventually("it answers", || (ask("status", &socket).code == 0).then_some(()));
    let ask_as = |uid: u32, words: &[&str], runtime: Option<&str>| {
        let mut other = Command::new("setpriv");
        other.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()]);
        other
            .arg(&program)
            .args(words)
            .current_dir("/")
            .env_remove("EXUVIA_CONFIG")
            .env_remove("XDG_RUNTIME_DIR");
        other.envs(runtime.map(|it| ("XDG_RUNTIME_DIR", it)));
        Answer::from(other.output().unwrap())
    };
    for command in ["status", "upgrade", "rollback", "stop"] {
        let lost = ask_as(65534, &[command], None);
        assert_eq!(lost.code, 4, "{lost:?}");
        assert!(!lost.text().contains("not running"), "{lost:?}");
        lost.failed_with(&[
            "no control socket at /tmp/exuvia-65534/control.sock",
            "/run/exuvia/control.sock: ",
            &format!("{}: cannot look at {}", socket.display(), socket.parent().unwrap().display()),
            "of uid 0 (root)",
            "ermission denied",
            "running as uid 0 (root): pid ",
            "--control SOCKET",
        ]);
    }
    let lost = ask_as(65534, &["status"], Some("/run/user/65534"));
    lost.failed_with(&[
        "no control socket at /run/user/65534/exuvia/control.sock",
        "running as uid 0 (root)",
    ]);
    let lost = ask_as(65534, &["status", "--control", "/nowhere/control.sock"], None);
    lost.failed_with(&[
        "no control socket at /nowhere/control.sock",
        "/tmp/exuvia-65534/control.sock: there is none",
    ]);

    // Root looks at its own place, and is told where another user's listens.
    let seen = Answer::from(exuvia(&["status", "--control", "/nowhere/control.sock"]).output().unwrap());
    seen.failed_with(&[&format!("{}: a process listens there, of uid 0 (root)", socket.display())]);
    assert_eq!(ask("stop", &socket).code, 0);
    assert_eq!(alone.wait(), 0);
}

/// A container with a read-only root was told that the file system is read-only, and not what can be done about it.
#[test]
fn where_no_folder_can_be_made_another_place_is_named() {
    // Nobody, root neither, can make a folder there.
    let told = Answer::from(run(Path::new("/sys/exuvia/control.sock")).output().unwrap());
    told.failed_with(&["/sys/exuvia", "control.socket names another place"]);
}
