//! Holds `config/exuvia.toml`, the reference for operators, against the code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Settings;
use super::raw::{KEYS, NAMED};

/// One setting in the reference.
struct Entry {
    /// As [`KEYS`] writes it, with `NAME` for a listener's name.
    path: String,
    value: String,
    commented_out: bool,
    /// The line before it is a comment.
    explained: bool,
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/exuvia.toml")
}

fn text() -> String {
    std::fs::read_to_string(path()).unwrap()
}

/// What a comment hides, if it hides a setting or a table's heading.
fn uncommented(line: &str) -> Option<&str> {
    let code = line.strip_prefix("# ")?;
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let is_setting = code.split_once(" = ").is_some_and(|(name, _)| is_name(name));
    (is_setting || (code.starts_with('[') && code.ends_with(']'))).then_some(code)
}

fn entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut section = String::new();
    let mut explained = false;
    for line in text().lines() {
        let hidden = uncommented(line);
        let code = hidden.unwrap_or(line);
        if let Some(heading) = code.strip_prefix('[') {
            section = heading.trim_end_matches(']').to_owned();
            if let Some((kind, _)) = section.split_once('.').filter(|(kind, _)| NAMED.contains(kind)) {
                section = format!("{kind}.NAME");
            }
        } else if let Some((name, value)) = code.split_once(" = ").filter(|_| !code.starts_with('#')) {
            let path = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
            entries.push(Entry { path, value: value.to_owned(), commented_out: hidden.is_some(), explained });
        }
        explained = line.starts_with('#');
    }
    entries
}

/// Writes a file for [`Settings::load`], which is gone with the guard.
fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn the_reference_has_every_key_and_no_other() {
    let in_reference: BTreeMap<String, bool> =
        entries().into_iter().map(|entry| (entry.path, entry.explained)).collect();
    let known: Vec<String> = KEYS.iter().map(|key| key.path()).collect();

    for path in &known {
        assert!(in_reference.contains_key(path), "{path} is not in the reference");
    }
    for (path, explained) in &in_reference {
        assert!(known.contains(path), "{path} is in the reference, but nothing reads it");
        assert!(explained, "{path} has no comment");
    }
}

#[test]
fn the_reference_loads_as_the_defaults() {
    let reference = Settings::load(Some(&path()), []).unwrap_or_else(|err| panic!("{err}"));
    assert_eq!(reference, Settings::load(None, []).unwrap());
}

/// That the loaded settings are equal says nothing of a default that stands in a comment.
#[test]
fn every_default_in_the_reference_is_the_real_one() {
    for key in KEYS {
        let Some(default) = key.default else { continue };
        let entries = entries();
        let entry = entries.iter().find(|entry| entry.path == key.path()).unwrap();
        let written = entry.value.replace(|c| "\"[] ".contains(c), "");
        assert_eq!(written, default, "{}", entry.path);
        assert!(!entry.commented_out || entry.path.ends_with(".unix_mode"), "{} has a default", entry.path);
    }
}

#[test]
fn what_is_commented_out_can_be_uncommented() {
    // What is said of TLS to servers needs TLS.
    let text = text().replace("\ntls = false", "\ntls = true");
    let text: Vec<String> = text.lines().map(|line| uncommented(line).unwrap_or(line).to_owned()).collect();
    let file = file(&text.join("\n"));
    let settings = Settings::load(Some(file.path()), []).unwrap_or_else(|err| panic!("{err}"));

    assert_eq!(settings.listeners.len(), 3);
    assert_eq!(settings.certificates.len(), 1);
    assert_eq!(settings.restart.executable, Some("/opt/exuvia/current/bin/exuvia".into()));
    assert_eq!(settings.restart.pid_file, Some("/run/exuvia/exuvia.pid".into()));
    assert_eq!(settings.control.socket, super::ControlSocket::Path("/run/exuvia/control.sock".into()));
    assert_eq!(settings.admin.address, Some("127.0.0.1:9090".parse().unwrap()));
    for entry in entries().iter().filter(|entry| entry.commented_out) {
        let key = KEYS.iter().find(|key| key.path() == entry.path).unwrap();
        let has_default = key.default.is_some() || entry.path == "listeners.NAME.address";
        assert!(!has_default || entry.path.starts_with("listeners."), "{}", entry.path);
    }
}

/// Every key is read: a value that none of them takes is refused, by name, in the file and in the environment.
#[test]
fn every_key_is_read() {
    for key in KEYS {
        let path = key.path().replace(".NAME.", ".local.");
        // What it cannot be without.
        let others = [
            ("listeners.local.address", "unix:/x"),
            ("certificates.local.chain", "/x"),
            ("certificates.local.key", "/x"),
        ];
        let others: Vec<_> = others.into_iter().filter(|(other, _)| *other != path).collect();
        let text: String = others.iter().map(|(other, value)| format!("{other} = '{value}'\n")).collect();
        let file = file(&format!("{text}{path} = [true]\n"));
        let error = Settings::load(Some(file.path()), []).expect_err(&path);
        assert_eq!(error.problems().len(), 1, "{error}");
        assert_eq!(error.problems()[0].key.as_deref(), Some(path.as_str()), "{error}");

        let variable = key.variable().replace("__NAME__", "__LOCAL__");
        let variable_of = |path: &str| format!("EXUVIA__{}", path.to_uppercase().replace('.', "__"));
        let others = others.iter().map(|(other, value)| (variable_of(other), (*value).to_owned()));
        let environment = others.chain([(variable.clone(), "\u{7f}".to_owned())]);
        let error = Settings::load(None, environment).expect_err(&variable);
        assert_eq!(error.problems().len(), 1, "{error}");
        assert_eq!(error.problems()[0].key.as_deref(), Some(path.as_str()), "{error}");
        assert!(error.to_string().starts_with(&format!("environment variable {variable}: ")), "{error}");
    }
}
