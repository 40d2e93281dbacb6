//! A bad new version changes nothing: the old process serves on, the one who asked is told the step and the
//! cause, and a good upgrade works right after.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::harness::{Answer, EXUVIA, Exuvia, Starter, children, is_alive};
use super::traffic::Traffic;

const SETTINGS: &str =
    "workers = 2\n[restart]\nexecutable = \"next\"\nprobation = \"0s\"\nready_timeout = \"20s\"\n";

/// Upgrades to what `plant` makes of the file `next`, which must fail; then to a good program.
#[track_caller]
fn survives(settings: &str, plant: impl FnOnce(&Exuvia)) -> Answer {
    let exuvia = Starter::new(settings).start();
    let old = exuvia.pid();
    let traffic = Traffic::start(exuvia.address(), 4);

    plant(&exuvia);
    let answer = exuvia.ask(&["upgrade"]);
    assert_eq!(answer.code, 1, "{answer:?}");
    traffic.flows();
    let status = exuvia.status();
    assert_eq!(
        (status["generation"].as_u64(), status["phase"].as_str()),
        (Some(1), Some("serving")),
        "{status}"
    );
    assert_eq!(exuvia.generations().len(), 1, "{status}");
    assert_eq!(status["last_upgrade"]["result"], "failed", "{status}");
    assert_eq!(children(exuvia.supervisor_pid()), [old], "the bad process is gone, and no zombie");

    exuvia.set(settings);
    good(&exuvia);
    exuvia.upgrade();
    traffic.reaches(2);
    traffic.finish();
    assert_eq!(exuvia.stop(), 0);
    answer
}

/// Puts a good program in place.
fn good(exuvia: &Exuvia) {
    let next = exuvia.folder().join("next");
    fs::remove_file(&next).or_else(|_| fs::remove_dir(&next)).ok();
    symlink(EXUVIA, &next).unwrap();
}

fn script(body: &str) -> impl FnOnce(&Exuvia) + use<> {
    let body = body.to_owned();
    move |exuvia| drop(exuvia.script("next", &body))
}

#[test]
fn missing() {
    survives(SETTINGS, |_| {}).failed_with(&["exec", "next", "No such file"]);
}

#[test]
fn a_folder() {
    survives(SETTINGS, |exuvia| fs::create_dir(exuvia.folder().join("next")).unwrap());
}

#[test]
fn not_executable() {
    let answer = survives(SETTINGS, |exuvia| {
        let next = exuvia.script("next", "exit 0");
        fs::set_permissions(next, fs::Permissions::from_mode(0o644)).unwrap();
    });
    answer.failed_with(&["exec", "ermission denied", "chmod +x"]);
}

#[test]
fn not_a_program() {
    let answer = survives(SETTINGS, |exuvia| {
        let next = exuvia.folder().join("next");
        fs::write(&next, [0x13, 0x37, 0, 1, 2, 3]).unwrap();
        fs::set_permissions(next, fs::Permissions::from_mode(0o755)).unwrap();
    });
    answer.failed_with(&["exec", "not a program"]);
}

#[test]
fn without_its_interpreter() {
    let answer = survives(SETTINGS, |exuvia| {
        let next = exuvia.folder().join("next");
        fs::write(&next, "#!/nowhere/sh\n").unwrap();
        fs::set_permissions(next, fs::Permissions::from_mode(0o755)).unwrap();
    });
    answer.failed_with(&["exec", "interpreter"]);
}

#[test]
fn exits_before_it_is_ready() {
    let answer = survives(SETTINGS, script("echo 'the moon is missing' >&2; exit 3"));
    answer.failed_with(&["ready", "the moon is missing", &died("status 3")]);
}

#[test]
fn is_killed_by_a_signal() {
    survives(SETTINGS, script("kill -SEGV $$")).failed_with(&["ready", &died("SIGSEGV")]);
}

/// How a death is told: the kernel shows the status of a process that is not its child since Linux 6.15.
fn died(how: &str) -> String {
    let system = nix::sys::utsname::uname().unwrap();
    let release = system.release().to_str().unwrap().to_owned();
    let mut numbers = release.split(['.', '-']).map(|text| text.parse::<u32>().unwrap_or(0));
    let known = (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 15);
    if known { how.to_owned() } else { "does not tell its exit status".to_owned() }
}

#[test]
fn never_becomes_ready() {
    let settings = SETTINGS.replace("20s", "3s");
    survives(&settings, script("exec sleep 600")).failed_with(&["ready", "ready_timeout", "killed"]);
}

#[test]
fn ignores_everything_but_a_kill() {
    let settings = SETTINGS.replace("20s", "3s");
    survives(&settings, script("trap '' TERM INT HUP; while :; do sleep 1; done"))
        .failed_with(&["ready_timeout"]);
}

/// Writes to the hand-off channel, which is the last descriptor.
fn says(message: &str) -> impl FnOnce(&Exuvia) + use<> {
    script(&format!("fd=$((2 + LISTEN_FDS)); eval \"printf '%s' '{message}' >&$fd\"; exec sleep 600"))
}

#[test]
fn speaks_another_version_of_the_hand_off() {
    let answer = survives(SETTINGS, says(r#"{\"exuvia\":2,\"kind\":\"ready\"}"#));
    answer.failed_with(&["handoff", "version 2", "version 1"]);
}

#[test]
fn writes_garbage_on_the_channel() {
    survives(SETTINGS, says("]]] garbage")).failed_with(&["handoff", "not a message"]);
}

#[test]
fn says_what_is_not_for_it_to_say() {
    survives(SETTINGS, says(r#"{\"exuvia\":1,\"kind\":\"commit\"}"#))
        .failed_with(&["handoff", "not for it to say"]);
}

#[test]
fn claims_to_be_the_owner_before_its_time() {
    // The claim is early, so it changes nothing; the time runs out.
    let settings = SETTINGS.replace("20s", "3s");
    survives(&settings, says(r#"{\"exuvia\":1,\"kind\":\"owner\"}"#)).failed_with(&["ready_timeout"]);
}

#[test]
fn does_not_take_over_when_it_is_told_to() {
    let answer = survives(SETTINGS, says(r#"{\"exuvia\":1,\"kind\":\"ready\",\"adopted\":[\"web\"]}"#));
    answer.failed_with(&["commit", "did not take over"]);
}

#[test]
fn finds_the_settings_broken() {
    let answer = survives(SETTINGS, |exuvia| {
        good(exuvia);
        exuvia.set("workers = \"many\"\n[drain]\ntimeout = \"soon\"\n");
    });
    answer.failed_with(&["configuration", "workers", "many", "drain.timeout", "soon", "exuvia.toml"]);
}

#[test]
fn finds_the_settings_missing() {
    let answer = survives(SETTINGS, |exuvia| {
        good(exuvia);
        fs::remove_file(exuvia.folder().join("exuvia.toml")).unwrap();
    });
    answer.failed_with(&["configuration", "exuvia.toml", "No such file"]);
}

#[test]
fn finds_the_address_of_a_new_listener_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let answer = survives(SETTINGS, |exuvia| {
        good(exuvia);
        exuvia.set(&format!(
            "{SETTINGS}[listeners.web]\naddress = \"127.0.0.1:0\"\n[listeners.new]\naddress = \"{address}\"\n"
        ));
    });
    answer.failed_with(&["listeners", "new", &address, "in use"]);
}

#[test]
fn finds_the_folder_of_its_control_socket_not_writable() {
    let answer = survives(SETTINGS, |exuvia| {
        good(exuvia);
        exuvia.set(&format!("{SETTINGS}[control]\nsocket = \"/proc/exuvia/control.sock\"\n"));
    });
    answer.failed_with(&["control", "/proc/exuvia"]);
}

#[test]
fn finds_the_pid_file_not_writable() {
    let answer = survives(SETTINGS, |exuvia| {
        good(exuvia);
        exuvia.set(&SETTINGS.replace("[restart]", "[restart]\npid_file = \"/proc/exuvia.pid\""));
    });
    answer.failed_with(&["PID file", "/proc/exuvia.pid"]);
}

#[test]
fn a_bad_one_while_an_old_generation_drains() {
    let exuvia = Starter::new(SETTINGS).start();
    let mut client = super::traffic::Client::connect(exuvia.address()).unwrap();
    client.ask("/slow?ms=2000").unwrap();
    good(&exuvia);
    let old = exuvia.pid();
    exuvia.upgrade();
    exuvia.script("next", "exit 1");
    assert_eq!(exuvia.ask(&["upgrade"]).code, 1);
    assert!(is_alive(old), "the failed upgrade did not disturb the one that drains");
    assert_eq!(client.response().unwrap().generation(), 1);
    assert_eq!(exuvia.stop(), 0);
}
