//! Nothing leaks and nothing stays behind: descriptors, variables, zombies, files.

use std::collections::BTreeMap;
use std::fs;

use super::harness::{EXUVIA, Exuvia, Starter, children, eventually, is_alive, script, stat};
use super::traffic::{Client, Traffic, get};

/// What the descriptors of a process are, and how many of each.
fn descriptors(pid: i32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.display().to_string();
        // A socket's number is its own; what kind it is shows elsewhere.
        let number = target.strip_suffix(']').and_then(|text| text.rsplit_once(":["));
        let kind = match number {
            Some((kind, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => kind.to_owned(),
            _ => target,
        };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

#[test]
fn every_generation_holds_the_same_descriptors() {
    let exuvia = Exuvia::start("workers = 2\n[restart]\nprobation = \"0s\"\n");
    let mut seen = Vec::new();
    for generation in 1..=6 {
        let traffic = Traffic::start(exuvia.address(), 4);
        if generation > 1 {
            let old = exuvia.pid();
            exuvia.upgrade();
            eventually("the old process is gone", || (!is_alive(old)).then_some(()));
        }
        traffic.reaches(generation);
        traffic.finish();
        let pid = exuvia.pid();
        // What the clients left must be closed on this side too: then the picture is at rest.
        let settled = eventually("the connections are closed", || {
            let status = exuvia.status();
            let row = status["generations"].as_array()?.iter().find(|one| one["pid"] == pid)?;
            let open: i64 =
                row["connections"].as_array()?.iter().filter_map(|kind| kind["open"].as_i64()).sum();
            (open == 0).then(|| descriptors(pid))
        });
        seen.push(settled);
    }
    // The first has no link to a predecessor, and none of the later ones has one left over.
    for later in &seen[2..] {
        assert_eq!(later["anon_inode:[eventpoll]"], seen[1]["anon_inode:[eventpoll]"]);
        assert_eq!(later.get("anon_inode:[pidfd]"), seen[1].get("anon_inode:[pidfd]"), "{seen:#?}");
        assert_eq!(later.get("pipe"), seen[1].get("pipe"), "{seen:#?}");
        // Its own counters, and the sum of those of all the dead.
        assert_eq!(later.get("/memfd:exuvia-segment (deleted)"), Some(&2), "{seen:#?}");
    }
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_new_process_is_given_exactly_what_the_list_says() {
    let exuvia = Exuvia::start("workers = 2\n[restart]\nexecutable = \"next\"\n");
    let mut held: Vec<Client> = (0..5).map(|_| Client::connect(exuvia.address()).unwrap()).collect();
    for client in &mut held {
        assert_eq!(client.get("/").unwrap().status, 200);
    }
    exuvia.script("next", "ls -l /proc/$$/fd > fds; env > variables; echo $$ > pid; exit 1");
    assert_eq!(exuvia.ask(&["upgrade"]).code, 1);

    let text = |name: &str| fs::read_to_string(exuvia.folder().join(name)).unwrap();
    let variable = |name: &str| {
        let variables = text("variables");
        let prefix = format!("{name}=");
        variables.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default().to_owned()
    };
    // The control socket, two sockets of the listener, the counters, the channel.
    assert_eq!(variable("LISTEN_FDS"), "5");
    assert_eq!(variable("LISTEN_PID"), text("pid").trim());
    assert_eq!(variable("LISTEN_FDNAMES"), "exuvia-control:web:web:exuvia-segment:exuvia-handoff");
    let fds = text("fds");
    let numbers: Vec<u32> = fds
        .lines()
        .filter_map(|line| line.split_once(" -> ")?.0.rsplit(' ').next()?.parse().ok())
        .filter(|fd| *fd < 10)
        .collect();
    // A shell that reads a script keeps that open at 10 or above.
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7], "{fds}");
    assert_eq!(exuvia.stop(), 0);
}

/// Each guard alone would do here, so that no other test misses one: what was inherited is close-on-exec from
/// the first moment, for whatever this process may start.
#[test]
fn every_descriptor_is_close_on_exec() {
    const O_CLOEXEC: u32 = 0o2_000_000;
    let exuvia = Exuvia::start("workers = 2\n[restart]\nprobation = \"0s\"\n");
    exuvia.upgrade();
    let folder = format!("/proc/{}/fdinfo", exuvia.pid());
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap().flatten() {
        // One that was open for a moment is no longer there.
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        assert!(number < 3 || flags & O_CLOEXEC != 0, "{number}: {text}");
        seen += 1;
    }
    assert!(seen > 8, "{seen}");
    assert_eq!(exuvia.stop(), 0);
}

/// What a careless parent left open came to the first generation, and must end with it.
#[test]
fn a_descriptor_that_came_by_accident_is_not_handed_on() {
    let starter = Starter::new("[restart]\nprobation = \"0s\"\n");
    let stray = starter.folder().join("stray");
    let body = format!("exec 9>{}; exec {EXUVIA} \"$@\"", stray.display());
    let program = script(&starter.folder().join("careless"), &body);
    let exuvia = starter.program(program).start();
    let holds = |pid| descriptors(pid).contains_key(stray.to_str().unwrap());
    assert!(holds(exuvia.pid()));
    exuvia.upgrade();
    assert!(!holds(exuvia.pid()));
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn no_variable_of_the_hand_over_stays_in_the_environment() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"0s\"\n");
    exuvia.upgrade();
    let environment = fs::read(format!("/proc/{}/environ", exuvia.pid())).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.contains("PATH="), "{environment}");
    assert!(!environment.contains("LISTEN_"), "{environment}");
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn no_zombie_no_file_no_process_stays_behind() {
    let settings = "[restart]\nprobation = \"0s\"\npid_file = \"exuvia.pid\"\n";
    let exuvia = Starter::new(settings).start();
    let supervisor = exuvia.supervisor_pid();
    for _ in 0..3 {
        exuvia.upgrade();
        let pid = fs::read_to_string(exuvia.folder().join("exuvia.pid")).unwrap();
        assert_eq!(pid.trim(), exuvia.pid().to_string());
    }
    exuvia.script("next", "exit 1");
    eventually("one process is left, and no zombie", || {
        let all = children(supervisor);
        (all.len() == 1 && all.iter().all(|pid| stat(*pid).is_some_and(|(_, state)| state != 'Z')))
            .then_some(())
    });
    assert_eq!(get(exuvia.address(), "/").unwrap().generation(), 4);

    let mut exuvia = exuvia;
    assert_eq!(exuvia.ask(&["stop"]).code, 0);
    assert_eq!(exuvia.wait(), 0);
    let left: Vec<_> =
        fs::read_dir(exuvia.folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let expected = ["exuvia", "exuvia.toml", "log", "next"];
    assert!(left.iter().all(|name| expected.iter().any(|known| name == known)), "{left:?}");
}
