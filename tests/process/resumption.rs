//! Sessions that outlive the process that began them: openssl keeps a session in a file.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::certificates::Authority;
use super::harness::{Exuvia, Starter};
use super::tls::{s_client, settings, start};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n";

const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];

/// Asks for something, and with `from` resumes the session in that file; a session for later is in `to`. Whether
/// it was resumed, and what came.
#[track_caller]
fn ask(address: SocketAddr, version: &str, from: Option<&Path>, to: &Path) -> (bool, String) {
    let mut arguments =
        vec![version, "-servername", "site.test", "-ign_eof", "-sess_out", to.to_str().unwrap()];
    if let Some(from) = from {
        arguments.extend(["-sess_in", from.to_str().unwrap()]);
    }
    let (_, text) = s_client(address, &arguments, REQUEST);
    let resumed = text.contains("\nReused, TLSv1.");
    assert!(resumed || text.contains("\nNew, TLSv1."), "{text}");
    (resumed, text)
}

/// Begins a session, the file of which is in the folder.
#[track_caller]
fn begin(exuvia: &Exuvia, version: &str) -> PathBuf {
    let file = exuvia.folder().join(format!("begun{version}"));
    let (resumed, text) = ask(exuvia.address(), version, None, &file);
    assert!(!resumed && text.contains("HTTP/1.1 200 OK"), "{text}");
    file
}

#[track_caller]
fn resumes(address: SocketAddr, version: &str, session: &Path, generation: u64) {
    let (resumed, text) = ask(address, version, Some(session), &session.with_extension("again"));
    assert!(resumed, "{version}: {text}");
    assert!(text.contains(&format!("x-exuvia-generation: {generation}\r\n")), "{version}: {text}");
}

#[test]
fn a_session_begun_with_one_generation_resumes_with_the_one_after_the_next() {
    let (exuvia, _) = start("");
    let sessions = VERSIONS.map(|version| begin(&exuvia, version));
    for generation in 2..=3 {
        exuvia.upgrade();
        for (version, session) in VERSIONS.iter().zip(&sessions) {
            resumes(exuvia.address(), version, session, generation);
        }
    }
    // Nothing of the keys is to be seen from outside.
    exuvia.says("the upgrade is committed generation=3");
    assert!(!exuvia.log().contains("tls.tickets"), "{}", exuvia.log());
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_session_begun_in_probation_resumes_after_the_rollback() {
    let (exuvia, _) = start("");
    let text = fs::read_to_string(exuvia.folder().join("exuvia.toml")).unwrap();
    exuvia.set(&text.replace("probation = \"0s\"", "probation = \"60s\""));
    exuvia.upgrade();
    let upgrade = exuvia.begin(&["upgrade"]);
    exuvia.wait_phase("probation");
    // Each worker of the old process pauses when it hears of it, which may be a moment later.
    let session = super::harness::eventually("the new process accepts", || {
        let session = exuvia.folder().join("begun");
        let (_, text) = ask(exuvia.address(), "-tls1_3", None, &session);
        text.contains("x-exuvia-generation: 3\r\n").then_some(session)
    });
    assert_eq!(exuvia.ask(&["rollback"]).code, 0);
    upgrade.answer().failed_with(&["rolled back"]);
    super::harness::eventually("the old process accepts", || {
        let (resumed, text) =
            ask(exuvia.address(), "-tls1_3", Some(&session), &session.with_extension("again"));
        text.contains("x-exuvia-generation: 2\r\n").then(|| assert!(resumed, "{text}"))
    });
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn two_hosts_with_the_same_key_files_resume_each_others_sessions() {
    let starters = [Starter::new(""), Starter::new("")];
    let folder = starters[0].folder().to_owned();
    let authority = Authority::new(&folder, "ca");
    let site = authority.issue(&folder, "site", &["site.test"]);
    let (old, new) = (folder.join("old.key"), folder.join("new.key"));
    fs::write(&old, [7; 48]).unwrap();
    fs::write(&new, [8; 80]).unwrap();
    let with = |files: &[&Path]| {
        settings("certificates = [\"site\"]", &[("site", &site)])
            + &format!("[tls]\nticket_key_files = {files:?}\n")
    };
    let [one, other] = starters.map(|starter| starter.settings(&with(&[&old])).start());
    let sessions = VERSIONS.map(|version| begin(&one, version));
    let all_resume = |generation| {
        for (version, session) in VERSIONS.iter().zip(&sessions) {
            resumes(other.address(), version, session, generation);
        }
    };
    all_resume(1);
    // The new key first, and the old one still opens.
    other.set(&with(&[&new, &old]));
    other.upgrade();
    all_resume(2);
    other.set(&with(&[&new]));
    other.upgrade();
    for (version, session) in VERSIONS.iter().zip(&sessions) {
        assert!(!ask(other.address(), version, Some(session), &folder.join("again")).0);
    }
    fs::write(&new, [8; 31]).unwrap();
    other.set(&with(&[&new]));
    other.ask(&["upgrade"]).failed_with(&["certificates", "new.key", "it has 31 bytes"]);
    assert_eq!((one.stop(), other.stop()), (0, 0));
}

/// rustls would resume it: a session says nothing of what was asked when it was begun.
#[test]
fn a_session_is_not_resumed_where_more_is_asked_of_clients() {
    let starter = Starter::new("");
    let folder = starter.folder().to_owned();
    let authority = Authority::new(&folder, "ca");
    let site = authority.issue(&folder, "site", &["site.test"]);
    let text = settings("certificates = [\"site\"]", &[("site", &site)]);
    let text = format!(
        "{text}[listeners.strict]\naddress = \"127.0.0.1:0\"\ncertificates = [\"site\"]\n\
         client_certificates = \"required\"\nclient_ca = {:?}\n",
        authority.path()
    );
    let exuvia = starter.settings(&text).start();
    let strict: SocketAddr = exuvia.listener("strict").parse().unwrap();
    for version in VERSIONS {
        let session = begin(&exuvia, version);
        resumes(exuvia.address(), version, &session, 1);
        let (resumed, text) = ask(strict, version, Some(&session), &folder.join("again"));
        assert!(!resumed && !text.contains("HTTP/1.1 200") && text.contains("alert"), "{version}: {text}");
    }
    assert_eq!(exuvia.stop(), 0);
}
