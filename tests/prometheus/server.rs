//! A Prometheus that scrapes, and its HTTP API.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::harness::{eventually, signal};
use super::rules::file;
use super::samples::Samples;
use super::traffic::get;

/// The job that it scrapes, as `docker/prometheus.yml` calls it.
pub const JOB: &str = "exuvia";

/// A running Prometheus, with its data in a folder of its own.
pub struct Prometheus {
    folder: TempDir,
    process: Child,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts one that scrapes `target` every second, and waits until it has done so.
    pub fn start(target: SocketAddr) -> Prometheus {
        let folder = tempfile::Builder::new().prefix("exuvia-prometheus-").tempdir().unwrap();
        fs::write(folder.path().join("prometheus.yml"), settings(target)).unwrap();
        fs::copy(file("alerts.yml"), folder.path().join("alerts.yml")).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut process = Command::new("prometheus")
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg("--web.listen-address=127.0.0.1:0")
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let address = eventually("Prometheus listens", || {
            if let Some(status) = process.try_wait().unwrap() {
                panic!("prometheus ended with {status}:\n{}", log_of(folder.path()));
            }
            let log = log_of(folder.path());
            let line = log.lines().find(|line| line.contains("msg=\"Listening on\""))?;
            line.rsplit_once("address=")?.1.trim().parse().ok()
        });
        let prometheus = Prometheus { folder, process, address };
        eventually("Prometheus scrapes", || {
            prometheus.try_query("up").is_ok_and(|up| !up.0.is_empty()).then_some(())
        });
        prometheus
    }

    /// What the API says under a path.
    pub fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let pairs = parameters.iter().map(|(name, value)| format!("{name}={}", escaped(value)));
        let target = format!("/api/v1/{path}?{}", pairs.collect::<Vec<_>>().join("&"));
        let response = get(self.address, &target).map_err(|error| error.to_string())?;
        let mut answer: Value = serde_json::from_slice(&response.body).map_err(|error| error.to_string())?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].take()),
            _ => Err(answer.to_string()),
        }
    }

    fn try_query(&self, query: &str) -> Result<Samples, String> {
        self.ask("query", &[("query", query)]).map(|data| Samples::of_vector(&data["result"]))
    }

    /// What a query gives at this moment.
    #[track_caller]
    pub fn query(&self, query: &str) -> Samples {
        self.try_query(query).unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// The one number that a query gives.
    #[track_caller]
    pub fn number(&self, query: &str) -> f64 {
        let samples = self.query(query);
        let [sample] = &*samples.0 else { panic!("{query} gives {samples:?}") };
        sample.value
    }

    /// When the last scrape was, in seconds since the Unix epoch.
    #[track_caller]
    fn scraped(&self) -> f64 {
        self.number("timestamp(up)")
    }

    /// Waits for the next scrape to be over.
    #[track_caller]
    pub fn wait_scrape(&self) {
        let last = self.scraped();
        eventually("Prometheus scrapes again", || (self.scraped() > last).then_some(()));
    }

    /// Waits until a scrape that begins after this moment is over: what is so now is in it.
    #[track_caller]
    pub fn wait_fresh(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        eventually("Prometheus has seen it", || (self.scraped() > now).then_some(()));
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("── what prometheus wrote ──\n{}", log_of(self.folder.path()));
        }
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            signal(self.process.id() as i32, Signal::SIGKILL);
        }
        self.process.wait().ok();
    }
}

/// Those of `docker/`, but for the target and the pace.
#[track_caller]
fn settings(target: SocketAddr) -> String {
    let mut settings = fs::read_to_string(file("prometheus.yml")).unwrap();
    for (old, new) in [
        ("exuvia:9090", &*target.to_string()),
        ("scrape_interval: 15s", "scrape_interval: 1s\n  scrape_timeout: 1s"),
        ("evaluation_interval: 15s", "evaluation_interval: 1s"),
    ] {
        assert_eq!(settings.matches(old).count(), 1, "{old:?} in {settings}");
        settings = settings.replace(old, new);
    }
    settings
}

fn log_of(folder: &Path) -> String {
    fs::read_to_string(folder.join("log")).unwrap_or_default()
}

/// For a query of a URL (RFC 3986, section 2.1).
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}
