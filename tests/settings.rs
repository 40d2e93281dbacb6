//! Settings as an operator meets them: a file, an environment, and what they say when they are wrong.
#![cfg(feature = "proxy")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use exuvia::settings::{ControlSocket, LogFormat, Origin, Settings, SettingsError, UpstreamAddr};

struct ConfigFile {
    /// Held for its drop, which removes the file.
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn config_file(content: impl AsRef<[u8]>) -> ConfigFile {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("exuvia.toml");
    fs::write(&path, content).unwrap();
    ConfigFile { _folder: folder, path }
}

fn load(content: impl AsRef<[u8]>, environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let file = config_file(content);
    Settings::load(Some(&file.path), variables(environment))
}

fn load_environment(environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::load(None, variables(environment))
}

fn variables(environment: &[(&str, &str)]) -> Vec<(String, String)> {
    environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The lines of the error, with the file's path as `FILE`.
fn lines(content: impl AsRef<[u8]>, environment: &[(&str, &str)]) -> Vec<String> {
    let file = config_file(content);
    let error =
        Settings::load(Some(&file.path), variables(environment)).expect_err("these settings are wrong");
    let text = error.to_string().replace(&file.path.display().to_string(), "FILE");
    text.lines().map(str::to_owned).collect()
}

/// The only line of the error.
fn line(content: impl AsRef<[u8]>) -> String {
    let lines = lines(content, &[]);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines[0].clone()
}

#[test]
fn nothing_configured_is_a_working_proxy() {
    let settings = Settings::load(None, []).unwrap();
    assert_eq!(settings.listeners.len(), 1);
    assert_eq!(settings.listeners[0].name, "web");
    assert_eq!(settings.listeners[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.listeners[0].backlog, 4096);
    assert_eq!(settings.workers, std::thread::available_parallelism().unwrap().get());
    assert_eq!(settings.upstream.servers, []);
    assert_eq!(settings.restart.probation, Duration::from_secs(5));
    assert_eq!(settings.limits.header_bytes, 64 * 1024);
    assert_eq!(settings.control.socket, ControlSocket::Default);
    assert_eq!(settings.admin.address, None);
    assert_eq!(settings.log.format, LogFormat::Text);
}

#[test]
fn a_file_that_says_nothing_is_the_defaults() {
    let defaults = Settings::load(None, []).unwrap();
    for content in
        ["", "\n\n", "# only a comment", "\u{feff}# after a byte order mark\n", "[listeners]\n[admin]\n"]
    {
        assert_eq!(load(content, &[]).unwrap(), defaults, "{content:?}");
    }
    assert_eq!(Settings::load(Some(Path::new("/dev/null")), []).unwrap(), defaults);
}

#[test]
fn the_environment_is_over_the_file_and_the_file_over_the_defaults() {
    let content = "workers = 3\n[restart]\nprobation = '7s'\n[log]\nlevel = 'warn'\n";
    let settings = load(content, &[("EXUVIA__RESTART__PROBATION", "0s"), ("EXUVIA__WORKERS", "2")]).unwrap();
    assert_eq!(settings.workers, 2);
    assert_eq!(settings.restart.probation, Duration::ZERO);
    assert_eq!(settings.log.level, "warn");
    assert_eq!(settings.restart.ready_timeout, Duration::from_secs(30));
}

#[test]
fn the_environment_sets_every_kind_of_value() {
    let settings = load_environment(&[
        ("EXUVIA__UPSTREAM__SERVERS", "127.0.0.1:9001, localhost:9002,unix:/run/app.sock"),
        ("EXUVIA__LIMITS__HEADER_BYTES", "1MiB"),
        ("EXUVIA__LIMITS__HEADERS", "1000"),
        ("EXUVIA__DRAIN__TIMEOUT", "1m 30s"),
        ("EXUVIA__RESTART__EXECUTABLE", "bin/exuvia"),
        ("EXUVIA__LOG__FORMAT", "json"),
        ("EXUVIA_UNRELATED", "x"),
        ("PATH", "/bin"),
    ])
    .unwrap();
    assert_eq!(
        settings.upstream.servers,
        [
            UpstreamAddr::Socket("127.0.0.1:9001".parse().unwrap()),
            UpstreamAddr::Name("localhost".to_owned(), 9002),
            UpstreamAddr::Unix("/run/app.sock".into()),
        ]
    );
    assert_eq!(settings.limits.header_bytes, 1024 * 1024);
    assert_eq!(settings.limits.headers, 1000);
    assert_eq!(settings.drain.timeout, Duration::from_secs(90));
    assert_eq!(settings.restart.executable, Some("bin/exuvia".into()));
    assert_eq!(settings.log.format, LogFormat::Json);

    let emptied = load("upstream.servers = ['a:1']", &[("EXUVIA__UPSTREAM__SERVERS", "")]).unwrap();
    assert_eq!(emptied.upstream.servers, []);
}

#[test]
fn the_default_listener_is_there_only_if_no_other_is() {
    let names = |settings: Settings| -> Vec<String> {
        settings.listeners.iter().map(|listener| format!("{}={}", listener.name, listener.address)).collect()
    };
    let api = "[listeners.api]\naddress = '127.0.0.1:1'\n";
    assert_eq!(names(load(api, &[]).unwrap()), ["api=127.0.0.1:1"]);

    let variable = ("EXUVIA__LISTENERS__API__ADDRESS", "127.0.0.1:2");
    assert_eq!(names(load_environment(&[variable]).unwrap()), ["api=127.0.0.1:2"]);
    assert_eq!(names(load(api, &[variable]).unwrap()), ["api=127.0.0.1:2"]);

    let web = ("EXUVIA__LISTENERS__WEB__ADDRESS", "127.0.0.1:3");
    assert_eq!(names(load_environment(&[web]).unwrap()), ["web=127.0.0.1:3"]);
    assert_eq!(names(load(api, &[web]).unwrap()), ["api=127.0.0.1:1", "web=127.0.0.1:3"]);
    let backlog = load_environment(&[("EXUVIA__LISTENERS__WEB__BACKLOG", "7")]).unwrap();
    assert_eq!(backlog.listeners[0].backlog, 7);
    assert_eq!(names(backlog), ["web=127.0.0.1:8080"]);
}

#[test]
fn the_environment_finds_a_listener_whatever_its_name() {
    let content = "[listeners.Main_Web]\naddress = '[::]:1'\n[listeners.'a.b__c']\naddress = '[::]:2'\n";
    let environment =
        [("EXUVIA__LISTENERS__MAIN_WEB__BACKLOG", "5"), ("EXUVIA__LISTENERS__A.B__C__BACKLOG", "6")];
    let settings = load(content, &environment).unwrap();
    let found: Vec<_> = settings.listeners.iter().map(|l| (l.name.as_str(), l.backlog)).collect();
    assert_eq!(found, [("Main_Web", 5), ("a.b__c", 6)]);
}

#[test]
fn listeners_do_not_collide() {
    let two = |a: &str, b: &str| format!("[listeners.a]\naddress = '{a}'\n[listeners.b]\naddress = '{b}'\n");
    assert!(load(two("127.0.0.1:0", "127.0.0.1:0"), &[]).is_ok());
    assert!(load(two("127.0.0.1:1", "127.0.0.2:1"), &[]).is_ok());
    for address in ["127.0.0.1:1", "unix:/run/x"] {
        let line = line(two(address, address));
        assert!(line.contains("listeners.b.address") && line.contains("listeners.a has this one"), "{line}");
    }
    let admin = format!("{}[admin]\naddress = '[::]:2'", two("[::]:1", "[::]:2"));
    assert!(
        line(admin).contains("admin.address = \"[::]:2\": expected an address of its own, and listeners.b")
    );
    let cases = "[listeners.web]\naddress = '[::]:1'\n[listeners.Web]\naddress = '[::]:2'\n";
    assert!(line(cases).contains("in more than case"));

    let many = |count: usize| -> String {
        (0..count).map(|n| format!("[listeners.n{n}]\naddress = '[::]:0'\n")).collect()
    };
    assert_eq!(load(many(64), &[]).unwrap().listeners.len(), 64);
    assert_eq!(line(many(65)), "FILE: listeners: expected at most 64, but there are 65");
}

#[test]
fn every_problem_is_told_at_once() {
    let content = r#"
        workers = 0
        wrokers = 3
        upstream = { servers = ["a b", "127.0.0.1:80", "c d"] }
        admin = 5
        [listeners.web]
        [restart]
        probation = "soon"
        [restrat]
    "#;
    let environment = [("EXUVIA__DRAIN__TIMEOUT", "later"), ("EXUVIA__RESTART__PROBATOIN", "1s")];
    let host =
        "expected HOST:PORT such as 127.0.0.1:9001, [::1]:9001 or app.internal:9001, or unix:/absolute/path";
    let duration = r#"expected a duration such as "5s", "250ms" or "1m 30s", from "0s" to "24h""#;
    let expected = [
        "FILE: admin = 5: expected a table, [admin]".to_owned(),
        "FILE: listeners.web.address: missing; every listener needs an address".to_owned(),
        format!(r#"FILE: restart.probation = "soon": {duration}"#),
        "FILE: restrat = {a table}: unknown table; did you mean [restart]?".to_owned(),
        format!(r#"FILE: upstream.servers = "a b": {host}"#),
        format!(r#"FILE: upstream.servers = "c d": {host}"#),
        r#"FILE: workers = 0: expected a whole number from 1 to 1024, or "auto" for one per CPU"#.to_owned(),
        "FILE: wrokers = 3: unknown key; did you mean workers?".to_owned(),
        format!(r#"environment variable EXUVIA__DRAIN__TIMEOUT: drain.timeout = "later": {duration}"#),
        "environment variable EXUVIA__RESTART__PROBATOIN: no setting has this name; did you mean \
         EXUVIA__RESTART__PROBATION?"
            .to_owned(),
    ];
    assert_eq!(lines(content, &environment), expected);
}

#[test]
fn problems_are_there_for_programs_too() {
    let error = load_environment(&[("EXUVIA__WORKERS", "many")]).unwrap_err();
    let problem = &error.problems()[0];
    assert_eq!(problem.origin, Origin::Variable("EXUVIA__WORKERS".to_owned()));
    assert_eq!(problem.key.as_deref(), Some("workers"));
    assert_eq!(problem.value.as_deref(), Some("\"many\""));
}

#[test]
fn an_unknown_key_is_refused_with_the_one_that_was_meant() {
    for (content, key, meant) in [
        ("probation = '1s'", "probation", "did you mean restart.probation?"),
        ("restart.probatoin = '1s'", "restart.probatoin", "did you mean restart.probation?"),
        ("restart.stall = '1s'", "restart.stall", "did you mean timeouts.stall?"),
        ("listener.web.address = 'x'", "listener", "did you mean [listeners]?"),
        ("drain.zzzzzzzz = 1", "drain.zzzzzzzz", "allowed here are timeout, idle_grace, stop_delay"),
        ("zzzzzzzz = 1", "zzzzzzzz", "allowed are workers, errors and the tables listeners, certificates"),
        ("listeners.a = {address = '[::]:0', adress = 1}", "listeners.a.adress", "listeners.NAME.address?"),
        ("'restart.probation' = '1s'", "\"restart.probation\"", "unknown key"),
        ("'workers[999999999999]' = 1", "\"workers[999999999999]\"", "unknown key"),
        ("\"a\\nb\" = 1", "\"a\\nb\"", "unknown key"),
    ] {
        let line = line(content);
        assert!(line.starts_with(&format!("FILE: {key} = ")), "{line}");
        assert!(line.contains(meant), "{line}");
    }
}

#[test]
fn an_unknown_variable_is_refused_by_name() {
    for variable in [
        "EXUVIA__",
        "EXUVIA__RESTART",
        "EXUVIA__restart__probation",
        "EXUVIA__RESTART__probation",
        "EXUVIA__RESTART__PROBATION__X",
        "EXUVIA__RESTART.PROBATION",
        "EXUVIA____PROBATION",
        "EXUVIA__LISTENERS__ADDRESS",
        "EXUVIA__LISTENERS__WEB__PORT",
        "EXUVIA__ä",
    ] {
        let error = load_environment(&[(variable, "1s")]).expect_err(variable).to_string();
        let start = format!("environment variable {variable}: no setting has this name");
        assert!(error.starts_with(&start), "{error}");
    }
    let error = load_environment(&[
        ("EXUVIA__LISTENERS__WEB__ADDRESS", "[::]:1"),
        ("EXUVIA__LISTENERS__web__ADDRESS", "[::]:2"),
    ]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("which EXUVIA__LISTENERS__WEB__ADDRESS sets already"), "{error}");
}

#[test]
fn broken_toml_is_told_with_line_and_column() {
    for (content, start) in [
        ("workers = 2\n[restart\n", "FILE: line 2, column 9: "),
        ("workers = 2\nworkers = 3\n", "FILE: line 2, column 1: duplicate key"),
        ("[restart]\n[restart]\n", "FILE: line 2, column "),
        ("# ä\nä = 1", "FILE: line 2, column 1: "),
        ("workers = ", "FILE: line 1, column "),
        ("a = \"x", "FILE: line 1, column "),
        ("\u{feff}x", "FILE: line 1, column "),
    ] {
        let lines = lines(content, &[]);
        assert!(lines[0].starts_with(start), "{lines:#?}");
    }
    assert_eq!(lines("a = \nworkers = 2\nb = ]\n", &[]).len(), 2, "one line for each mistake");
    let deep = format!("a = {}", "[".repeat(100_000));
    assert!(lines(deep, &[])[0].starts_with("FILE: line 1, column "));
}

/// What the file would have said is not known, so what seems to be missing is no problem; the environment's own
/// mistakes are.
#[test]
fn a_broken_file_does_not_hide_the_environment() {
    let environment = [("EXUVIA__LISTENERS__API__BACKLOG", "0"), ("EXUVIA__LISTENERS__B__BACKLOG", "1")];
    let lines = lines("workers = ", &environment);
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(
        lines[1].starts_with("environment variable EXUVIA__LISTENERS__API__BACKLOG: listeners.api.backlog")
    );
}

#[test]
fn a_file_that_cannot_be_read_is_told_with_its_path_and_cause() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |path: &Path| Settings::load(Some(path), []).unwrap_err().to_string();

    let missing = folder.path().join("missing.toml");
    let expected = format!("{}: cannot be read: No such file or directory (os error 2)", missing.display());
    assert_eq!(refusal(&missing), expected);
    assert!(refusal(folder.path()).contains("cannot be read: Is a directory"));
    assert!(refusal(Path::new("/dev/zero")).contains("larger than 1 MiB"));
    let too_large = "FILE: is larger than 1 MiB, the most that a configuration may have";
    assert_eq!(line(vec![b'#'; 10 << 20]), too_large);
    assert_eq!(line(vec![b'#'; (1 << 20) + 1]), too_large);
    assert!(load(vec![b'#'; 1 << 20], &[]).is_ok());
    assert!(line(b"workers = 2\n# \xff\n").starts_with("FILE: line 2, column 3: not UTF-8"));
}

#[test]
fn an_error_stays_readable() {
    let hostile: String = (0..10_000).map(|n| format!("key{n} = {n}\n")).collect();
    let told = lines(hostile, &[]);
    assert_eq!(told.len(), 51);
    assert_eq!(told[50], "... and 9950 more");

    let long = line(format!("log.format = '{}'", "x".repeat(100_000)));
    assert!(long.len() < 300 && long.contains("(100000 bytes)"), "{long}");
    let long = line(format!("{} = 1", "x".repeat(100_000)));
    assert!(long.len() < 500, "{}", long.len());
    let long = line(format!("upstream.servers = ['{}']", "é".repeat(100_000)));
    assert!(long.len() < 400, "{}", long.len());
}

#[test]
fn printed_settings_load_as_the_same() {
    let content = r#"
        workers = 7
        [listeners.web]
        address = "[::1]:0"
        backlog = 65535
        [listeners."a.b"]
        address = 'unix:/run/with "quotes" and \ and é'
        unix_mode = "0600"
        [upstream]
        servers = ["127.0.0.1:9001", "[::1]:9002", "app.internal:80", "unix:/run/app.sock"]
        connect_timeout = "1ms"
        response_timeout = "24h"
        idle_timeout = "0s"
        max_idle_per_worker = 0
        protocol = "alpn"
        tls = true
        tls_name = "app.internal"
        ca = "/etc/ca.pem"
        client_certificate = "a"
        max_streams = 1
        proxy_protocol = "v2"
        upgrades = ["websocket", "foo/2"]
        connect = true
        [listeners.secure]
        address = "127.0.0.1:8443"
        certificates = ["b-1", "a"]
        tls_min_version = "1.3"
        client_certificates = "requested"
        client_ca = "clients.pem"
        protocols = ["http/1.1", "h2"]
        proxy_protocol = "required"
        proxy_protocol_from = ["10.0.0.0/8", "::1"]
        [certificates.a]
        chain = "/a"
        key = "/a.key"
        [certificates.b-1]
        chain = "/b"
        key = "/b.key"
        [tls]
        ticket_lifetime = "1h"
        ticket_key_files = ["/k1", "/k2"]
        [http2]
        max_streams = 10000
        stream_window = "16KiB"
        connection_window = "1024MiB"
        max_resets_per_minute = 1
        max_control_frames_per_minute = 10
        ack_timeout = "1s"
        [timeouts]
        handshake = "3s"
        tunnel = "24h"
        header = "1m 30s"
        idle = "1h 1ms 1us 1ns"
        stall = "90m"
        [limits]
        connections_per_worker = 1_000_000
        header_bytes = "8KiB"
        headers = 1
        [restart]
        executable = "../bin/ex uvia"
        ready_timeout = "1s"
        probation = "0s"
        max_generations = 64
        pid_file = '/run/\'
        [drain]
        timeout = "0s"
        idle_grace = "1ms"
        stop_delay = "1ms"
        [control]
        socket = "run/control"
        [admin]
        address = "0.0.0.0:9"
        [log]
        level = 'warn,exuvia[span{field="x"}]=debug'
        format = "json"
    "#;
    for settings in
        [Settings::load(None, []).unwrap(), load(content, &[]).unwrap_or_else(|err| panic!("{err}"))]
    {
        let printed = settings.to_toml();
        let again = load(&printed, &[]).unwrap_or_else(|err| panic!("{err}\n{printed}"));
        assert_eq!(again, settings, "{printed}");
    }
}
