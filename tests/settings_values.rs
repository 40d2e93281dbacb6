//! Values that are not allowed: each is refused with its key, itself, and what would have been allowed.
#![cfg(feature = "proxy")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use exuvia::settings::Settings;

/// The only line of the error, without the file's path, or nothing if the settings are allowed.
fn refusal(content: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("exuvia.toml");
    std::fs::write(&path, content).unwrap();
    let error = Settings::load(Some(&path), []).err()?;
    assert_eq!(error.problems().len(), 1, "{error}");
    let text = error.to_string();
    let origin = format!("{}: ", path.display());
    Some(text.strip_prefix(&origin).unwrap_or_else(|| panic!("{text}")).to_owned())
}

/// Asserts that the setting is refused under this key, with its value as `shown` and these words.
fn refused(key: &str, value: &str, shown: &str, allowed: &str) {
    let line = refusal(&format!("{key} = {value}")).unwrap_or_else(|| panic!("{key} = {value} is allowed"));
    let start = format!("{key} = {shown}");
    assert!(line.starts_with(&start) && line[start.len()..].contains(allowed), "{line}");
}

#[test]
fn durations() {
    const KEY: &str = "restart.probation";
    refused(KEY, "5", "5: ", "a number needs its unit, such as \"5s\"");
    refused(KEY, "-5", "-5: ", "expected a duration");
    refused(KEY, "5.0", "5.0: ", "expected a duration");
    refused(KEY, "true", "true: ", "expected a duration");
    refused(KEY, "''", "\"\": ", "expected a duration");
    refused(KEY, "'5'", "\"5\": ", "expected a duration");
    refused(KEY, "'-1s'", "\"-1s\": ", "expected a duration");
    refused(KEY, "{ a = 1 }", "{a table}: ", "expected a duration");
    refused(KEY, "['1s']", "[\"1s\"]: ", "expected a duration");
    refused(KEY, "2020-01-01", "\"2020-01-01\": ", "expected a duration");
    refused(KEY, "'25h'", "\"25h\": ", "from \"0s\" to \"24h\"");
    refused(KEY, "'24h 1ns'", "\"24h 1ns\": ", "from \"0s\" to \"24h\"");
    refused(KEY, "'99999999999999999999s'", "\"", "from \"0s\" to \"24h\"");
    refused("restart.ready_timeout", "'0s'", "\"0s\": ", "from \"1ms\" to \"24h\"");
    assert_eq!(refusal("restart.probation = '24h'"), None);
    assert_eq!(refusal("restart.probation = '1440m'"), None);
    assert_eq!(refusal("restart.probation = '0.5s'"), None);
}

/// humantime 2.4 panics when the parts of a duration are each in range and their sum is not.
#[test]
fn a_duration_that_overflows_is_a_problem_and_no_panic() {
    for text in
        ["18446744073709551615s 1000ms", "1s 18446744073709551615ns", "584542046090y 19767615s 1000ms"]
    {
        refused("drain.timeout", &format!("'{text}'"), "\"", "from \"0s\" to \"24h\"");
    }
}

#[test]
fn numbers() {
    refused("restart.max_generations", "1", "1: ", "from 2 to 64");
    refused("restart.max_generations", "65", "65: ", "from 2 to 64");
    refused("restart.max_generations", "8.0", "8.0: ", "from 2 to 64");
    refused("limits.headers", "''", "\"\": ", "from 1 to 1000");
    refused("workers", "-1", "-1: ", "from 1 to 1024, or \"auto\"");
    refused("workers", "1025", "1025: ", "from 1 to 1024, or \"auto\"");
    refused("workers", "18446744073709551617", "18446744073709551617: ", "from 1 to 1024");
    refused("workers", &"9".repeat(50), "\"9999", "from 1 to 1024");
    refused("workers", "'Auto'", "\"Auto\": ", "or \"auto\"");
    refused("workers", "'+1'", "\"+1\": ", "or \"auto\"");
    refused("workers", "inf", "inf: ", "from 1 to 1024");
    refused("workers", "{}", "{a table}: ", "from 1 to 1024");
    assert_eq!(refusal("workers = 1024"), None);
    assert_eq!(refusal("workers = '2'"), None);
}

#[test]
fn sizes() {
    for (value, shown) in [
        ("8191", "8191: "),
        ("1048577", "1048577: "),
        ("-1", "-1: "),
        ("'64KB'", "\"64KB\": "),
        ("'KiB'", "\"KiB\": "),
        ("''", "\"\": "),
        ("'17592186044416MiB'", "\""),
    ] {
        refused("limits.header_bytes", value, shown, "from \"8KiB\" to \"1MiB\"");
    }
    for value in ["8192", "'8192'", "'8KiB'", "'1MiB'", "'1024 KiB'"] {
        assert_eq!(refusal(&format!("limits.header_bytes = {value}")), None);
    }
}

#[test]
fn addresses_and_paths() {
    refused("upstream.servers", "'a:1'", "\"a:1\": ", "expected a list");
    refused("upstream.servers", "[1]", "1: ", "HOST:PORT");
    refused("upstream.servers", "[[]]", "[]: ", "HOST:PORT");
    refused("admin.address", "'unix:/run/admin'", "\"unix:/run/admin\": ", "IP:PORT");
    refused("listeners.a.address", "'localhost:80'", "\"localhost:80\": ", "IP:PORT");
    refused("restart.executable", "''", "\"\": ", "expected a path");
    refused("restart.executable", "\"a\\u0000b\"", "\"a\\u0000b\": ", "expected a path");
    refused("control.socket", &format!("'{}'", "x".repeat(108)), "\"x", "1 to 107 bytes");
    assert_eq!(refusal(&format!("control.socket = '{}'", "x".repeat(107))), None);
}

#[test]
fn listeners() {
    let tcp = "listeners.a.address = '[::]:0'\n";
    let unix = "listeners.a.address = 'unix:/a'\n";
    for (content, start, allowed) in [
        (format!("{tcp}listeners.a.backlog = 0"), "listeners.a.backlog = 0: ", "from 1 to 65535"),
        (format!("{tcp}listeners.a.backlog = 65536"), "listeners.a.backlog = 65536: ", "from 1 to 65535"),
        (
            format!("{tcp}listeners.a.unix_mode = '0666'"),
            "listeners.a.unix_mode = \"0666\": ",
            "unix: address",
        ),
        (format!("{unix}listeners.a.unix_mode = 666"), "listeners.a.unix_mode = 666: ", "in octal"),
        (format!("{unix}listeners.a.unix_mode = '0888'"), "listeners.a.unix_mode = \"0888\": ", "in octal"),
        (format!("{unix}listeners.a.unix_mode = '4755'"), "listeners.a.unix_mode = \"4755\": ", "in octal"),
    ] {
        let line = refusal(&content).unwrap_or_else(|| panic!("{content} is allowed"));
        assert!(line.starts_with(start) && line.contains(allowed), "{line}");
    }
    for (content, start) in [
        (
            "listeners.exuvia-a.address = '[::]:0'",
            "listeners.exuvia-a: expected a name that does not start with",
        ),
        ("listeners.'a:b'.address = '[::]:0'", "listeners.\"a:b\": expected a name of 1 to 64 "),
        ("listeners.''.address = '[::]:0'", "listeners.\"\": expected a name of 1 to 64 "),
        ("listeners.a = '[::]:0'", "listeners.a = \"[::]:0\": expected a table, [listeners.NAME]"),
        ("[[listeners]]\naddress = '[::]:0'", "listeners = [{a table}]: expected a table for each"),
    ] {
        let line = refusal(content).unwrap_or_else(|| panic!("{content} is allowed"));
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn logs() {
    refused("log.level", "'inof'", "\"inof\": ", "warn, info, debug");
    refused("log.level", "''", "\"\": ", "warn, info, debug");
    refused("log.level", "'warn,a=loud'", "\"warn,a=loud\": ", "warn, info, debug");
    refused("log.format", "'xml'", "\"xml\": ", "\"text\" or \"json\"");
    assert_eq!(refusal("log.level = 'warn,exuvia::proxy=debug'"), None);
}
