//! The demonstration upstream through the proxy: what a person tries first, and what the other tests lean on.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::harness::{Alone, Answer, EXUVIA, Exuvia, eventually, exuvia, is_root};
use super::traffic::{Client, get};

#[test]
fn every_page_does_what_it_says() {
    let exuvia = Exuvia::start("");
    let address = exuvia.address();
    let text = |target: &str| {
        let response = get(address, target).unwrap();
        (response.status, String::from_utf8(response.body).unwrap())
    };

    let (status, page) = text("/some/where?x=1");
    assert_eq!(status, 200);
    let first = format!("exuvia {}, generation 1, pid {}\n", env!("CARGO_PKG_VERSION"), exuvia.pid());
    assert!(page.starts_with(&first) && page.contains("GET /some/where?x=1\n"), "{page}");

    let begun = Instant::now();
    let (status, page) = text("/slow?ms=50");
    assert!(
        status == 200 && page.contains("after 50 ms") && begun.elapsed() >= Duration::from_millis(50),
        "{page}"
    );
    assert_eq!(text("/bytes?n=100000").1.len(), 100_000);
    assert_eq!(text("/bytes?n=0"), (200, String::new()));
    assert_eq!(text("/stream?n=3&every_ms=1").1.lines().count(), 3);
    assert_eq!(text("/status?code=418").0, 418);
    assert_eq!(text("/status?code=503").0, 503);
    assert_eq!(text("/status?code=204"), (204, String::new()));

    let mut client = Client::connect(address).unwrap();
    client
        .send(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Type: a/b\r\nContent-Length: 5\r\n\r\nhello")
        .unwrap();
    let echo = client.response().unwrap();
    assert_eq!((echo.status, echo.header("content-type"), &echo.body[..]), (200, Some("a/b"), &b"hello"[..]));
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\nAccept: application/json\r\n\r\n").unwrap();
    let json: serde_json::Value = serde_json::from_slice(&client.response().unwrap().body).unwrap();
    assert_eq!((&json["generation"], &json["pid"]), (&1.into(), &exuvia.pid().into()));
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_parameter_that_makes_no_sense_is_told_with_what_does() {
    let exuvia = Exuvia::start("");
    for (target, words) in [
        ("/slow?ms=soon", "ms must be a number from 0 to 600000"),
        ("/slow?ms=600001", "ms must be"),
        ("/bytes?n=-1", "n must be"),
        ("/stream?n=1000001", "n must be a number from 0 to 1000000"),
        ("/stream?every_ms=", "every_ms must be"),
        ("/status?code=99", "code must be a number from 200 to 599"),
        ("/status?code=101", "code must be"),
        ("/status?code=600", "code must be"),
    ] {
        let response = get(exuvia.address(), target).unwrap();
        let body = String::from_utf8(response.body).unwrap();
        assert_eq!(response.status, 400, "{target}");
        assert!(body.contains(words) && body.contains("default"), "{target}: {body}");
    }
    assert_eq!(exuvia.stop(), 0);
}

/// A network namespace, so that well-known ports are nobody else's.
struct Network(Alone);

impl Network {
    fn new() -> Network {
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sh", "-c", "ip link set lo up && echo up && exec cat"]);
        let mut holder = Alone(holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(holder.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        Network(holder)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.0.0.id())).arg(program);
        command.env_remove("EXUVIA_CONFIG").env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        command
    }

    /// Starts exuvia with these arguments and returns it with what it says to a person.
    fn run(&self, arguments: &[&str], control: &Path, web: Option<&str>) -> (Alone, String) {
        let mut command = self.command(EXUVIA);
        command.args(arguments).env("EXUVIA__CONTROL__SOCKET", control);
        command.env("EXUVIA__RESTART__PROBATION", "0s").stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(web) = web {
            command.env("EXUVIA__LISTENERS__WEB__ADDRESS", web);
        }
        let mut alone = Alone(command.spawn().unwrap());
        let mut lines = BufReader::new(alone.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut banner = Vec::new();
        while !banner.last().is_some_and(|line: &String| line.contains("exuvia stop")) {
            banner.push(lines.next().unwrap_or_else(|| panic!("the banner breaks off: {banner:?}")));
        }
        // Whoever follows may write, too.
        std::thread::spawn(move || lines.for_each(drop));
        (alone, banner.join("\n"))
    }

    /// What a browser gets there.
    fn page(&self, address: &str) -> String {
        let mut curl = self.command("curl");
        curl.args(["--silent", "--fail", "--header", "Accept: text/html"]).arg(format!("http://{address}/"));
        let answer = Answer::from(curl.output().unwrap());
        assert_eq!(answer.code, 0, "{answer:?}");
        answer.out
    }
}

fn ask(words: &[&str], control: &Path) -> Answer {
    let answer = Answer::from(exuvia(words).arg("--control").arg(control).output().unwrap());
    assert_eq!(answer.code, 0, "{answer:?}");
    answer
}

fn admin(control: &Path) -> Option<String> {
    let status: serde_json::Value = serde_json::from_str(&ask(&["status", "--json"], control).out).unwrap();
    status["admin"].as_str().map(str::to_owned)
}

fn upgrade(control: &Path, to: u64) {
    ask(&["upgrade"], control);
    eventually("the next generation answers", || {
        let status: serde_json::Value =
            serde_json::from_str(&ask(&["status", "--json"], control).out).unwrap();
        (status["generation"] == to && status["phase"] == "serving").then_some(())
    });
}

/// The first command of the README showed a text and no page: `admin.address` is off unless it is set, and the page is
/// the best picture of what the program does.
#[test]
fn with_nothing_configured_there_is_a_status_page_and_its_port_stays() {
    if !is_root() {
        return;
    }
    let (network, folder) = (Network::new(), tempfile::tempdir().unwrap());
    let control = |name: &str| folder.path().join(name).join("control.sock");

    // The usual port, told first.
    let (first, banner) = network.run(&["run", "--supervise=never"], &control("first"), None);
    let second_line = banner.lines().nth(1).unwrap_or_default();
    assert!(second_line.starts_with("  status page: http://127.0.0.1:9090/ "), "{banner}");
    assert!(network.page("127.0.0.1:9090").contains("<!doctype html>"));
    upgrade(&control("first"), 2);
    assert_eq!(admin(&control("first")).as_deref(), Some("127.0.0.1:9090"));

    // It is taken, so another one: for as long as there are generations, even when the usual one is free again.
    let (second, banner) =
        network.run(&["run", "--supervise=never"], &control("second"), Some("127.0.0.1:0"));
    let page = banner.split("status page: http://").nth(1).and_then(|rest| rest.split('/').next());
    let page = page.unwrap_or_else(|| panic!("no page in {banner}")).to_owned();
    assert!(page.starts_with("127.0.0.1:") && page != "127.0.0.1:9090" && page != "127.0.0.1:0", "{page}");
    ask(&["stop"], &control("first"));
    first.wait();
    for generation in [2, 3] {
        upgrade(&control("second"), generation);
        assert_eq!(admin(&control("second")).as_ref(), Some(&page));
    }
    assert!(network.page(&page).contains("<!doctype html>"));
    ask(&["stop"], &control("second"));
    second.wait();

    // A listener of one's own on the usual port is shared with nobody.
    let (third, banner) =
        network.run(&["run", "--supervise=never"], &control("third"), Some("127.0.0.1:9090"));
    assert!(
        banner.contains("status page: ") && !banner.contains("status page: http://127.0.0.1:9090/"),
        "{banner}"
    );
    ask(&["stop"], &control("third"));
    third.wait();

    // Whoever has a configuration file says in it what there is.
    let file = folder.path().join("exuvia.toml");
    std::fs::write(&file, "").unwrap();
    let with_file = ["run", "--supervise=never", "--config", file.to_str().unwrap()];
    let (fourth, banner) = network.run(&with_file, &control("fourth"), None);
    assert!(!banner.contains("status page"), "{banner}");
    assert_eq!(admin(&control("fourth")), None);
    ask(&["stop"], &control("fourth"));
    fourth.wait();
}
