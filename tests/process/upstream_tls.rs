//! Servers behind TLS, played by OpenSSL.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use super::certificates::{Authority, Files};
use super::harness::{Exuvia, Starter};
use super::traffic::get;

/// `openssl s_server`, which answers every request with a page about its connection.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(files: &Files, client_ca: Option<&Authority>) -> Server {
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", "127.0.0.1:0", "-www", "-alpn", "http/1.1", "-cert"]);
        command.arg(&files.chain).arg("-key").arg(&files.key);
        if let Some(ca) = client_ca {
            command.args(["-Verify", "1", "-verify_return_error", "-CAfile"]).arg(ca.path());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("openssl is needed");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.find_map(|line| line.unwrap().strip_prefix("ACCEPT ")?.parse().ok());
        // What it says further must not stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, address: address.expect("it says where it listens") }
    }

    fn settings(&self, more: &str) -> String {
        let port = self.address.port();
        format!(
            "errors = \"detailed\"\n[upstream]\nservers = [\"localhost:{port}\"]\ntls = true\nprotocol = \"alpn\"\n{more}"
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn page(exuvia: &Exuvia) -> (u16, String) {
    let answer = get(exuvia.address(), "/").unwrap();
    (answer.status, String::from_utf8(answer.body).unwrap())
}

#[test]
fn its_certificate_is_verified() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let strangers = Authority::new(folder.path(), "strangers");
    let server = Server::start(&ours.issue(folder.path(), "server", &["localhost", "app.test"]), None);

    let ca = |authority: &Authority| format!("ca = {:?}\n", authority.path());
    let exuvia = Exuvia::start(&server.settings(&ca(&ours)));
    let (status, text) = page(&exuvia);
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("TLSv1.3"), "{text}");

    exuvia.set(&server.settings(&format!("{}tls_name = \"other.test\"\n", ca(&ours))));
    exuvia.upgrade();
    let (status, text) = page(&exuvia);
    assert_eq!(status, 502);
    assert!(text.contains("TLS: bad certificate: for another name\nrequest "), "{text}");

    exuvia.set(&server.settings(&ca(&strangers)));
    exuvia.upgrade();
    let (_, text) = page(&exuvia);
    assert!(text.contains("TLS: bad certificate: unknown issuer\nrequest "), "{text}");
    exuvia.says("upstream_certificate");
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn it_may_ask_for_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let server = Server::start(&ours.issue(folder.path(), "server", &["localhost"]), Some(&ours));
    let ca = format!("ca = {:?}\n", ours.path());

    let exuvia = Exuvia::start(&server.settings(&ca));
    let (status, text) = page(&exuvia);
    assert_eq!(status, 502, "{text}");

    let leaf = ours.issue_client(folder.path(), "edge", "edge.test");
    exuvia.set(&format!(
        "{}\n{ca}client_certificate = \"edge\"\n{}",
        server.settings(""),
        leaf.settings("edge")
    ));
    exuvia.upgrade();
    let (status, text) = page(&exuvia);
    assert_eq!(status, 200, "{text}");
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_missing_authority_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let server = Server::start(&ours.issue(folder.path(), "server", &["localhost"]), None);
    let exuvia = Starter::new(&server.settings(&format!("ca = {:?}\n", ours.path()))).start();
    let missing = folder.path().join("missing.pem");
    exuvia.set(&server.settings(&format!("ca = {missing:?}\n")));
    exuvia.ask(&["upgrade"]).failed_with(&[
        "certificates",
        "upstream",
        "missing.pem",
        "cannot read it: No such file",
    ]);
    assert_eq!((exuvia.generation(), page(&exuvia).0), (1, 200));
    assert_eq!(exuvia.stop(), 0);
}
