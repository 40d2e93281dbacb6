//! The rules of the project's shape that a machine can check. `ARCHITECTURE.md` says why they are.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may use whom: a module, and the modules of ours that it may name. An arrow that is not here is a
/// decision to be taken, not a line to be added in passing.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("cli", &["app", "control", "overview", "restart", "supervise"]),
    (
        "app",
        &[
            "admin",
            "control",
            "demo",
            "log",
            "metrics",
            "overview",
            "proxy",
            "resolver",
            "restart",
            "server",
            "settings",
            "supervise",
            "tls",
            "worker",
        ],
    ),
    ("admin", &["http", "metrics", "overview", "restart"]),
    ("control", &["http", "overview", "restart"]),
    ("demo", &[]),
    ("http", &["restart"]),
    ("log", &["metrics", "restart"]),
    ("metrics", &["restart"]),
    ("overview", &["restart"]),
    ("proxy", &["metrics", "resolver", "restart", "timer"]),
    ("resolver", &["metrics", "restart"]),
    ("restart", &[]),
    ("server", &["metrics", "proxy", "restart", "timer", "tls"]),
    ("settings", &["restart"]),
    ("supervise", &["log", "restart"]),
    ("timer", &[]),
    ("tls", &[]),
    ("worker", &["metrics", "proxy", "restart", "server"]),
];

/// Tests of a module may make what they test as the program does.
const TESTS_MAY_NAME: &[&str] = &["app", "resolver", "worker"];

/// A good room has about 400 lines; more is a hall.
const ROOM: usize = 500;

/// Halls, with the reason why they are not divided.
const HALLS: &[(&str, usize, &str)] =
    &[("src/restart/state.rs", 650, "one machine, one table: to read half of it is to misread it")];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `folder`, relative to the root, with its text.
fn files(folder: &str) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.insert(path.strip_prefix(root()).unwrap().to_owned(), text);
            }
        }
    }
    assert!(!found.is_empty(), "nothing in {folder}");
    found
}

/// The module of the crate's root that a file of `src` belongs to.
fn module_of(path: &Path) -> String {
    let first = path.components().nth(1).unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The modules that a text names behind `root`, be it in braces.
fn modules_named(text: &str, root: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
    };
    let mut named = Vec::new();
    for behind in text.split(root).skip(1) {
        match behind.strip_prefix('{') {
            None => named.push(word(behind)),
            Some(list) => {
                let mut depth = 0;
                let mut start = 0;
                for (at, letter) in list.char_indices() {
                    match letter {
                        '{' => depth += 1,
                        '}' if depth == 0 => {
                            named.push(word(&list[start..at]));
                            break;
                        }
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            named.push(word(&list[start..at]));
                            start = at + 1;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    named.retain(|name| name.chars().next().is_some_and(char::is_lowercase));
    named
}

#[test]
fn arrows_point_one_way() {
    let mut wrong = Vec::new();
    for (path, text) in files("src") {
        let module = module_of(&path);
        if module == "lib" {
            continue;
        }
        let allowed = ARROWS.iter().find(|(name, _)| *name == module);
        let Some((_, allowed)) = allowed else {
            wrong.push(format!("{}: the module {module} has no arrows in tests/tidy.rs", path.display()));
            continue;
        };
        let root = if module == "main" { "exuvia::" } else { "crate::" };
        let is_test = path.with_extension("").iter().any(|part| part == "tests");
        let (code, tests) = match text.split_once("#[cfg(test)]\nmod tests {") {
            _ if is_test => ("", &text[..]),
            Some(parts) => parts,
            None => (&text[..], ""),
        };
        for (text, more) in [(code, &[][..]), (tests, TESTS_MAY_NAME)] {
            for named in modules_named(text, root) {
                let named = named.as_str();
                if named != module && !allowed.contains(&named) && !more.contains(&named) {
                    wrong.push(format!("{}: {module} may not use {named}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_arrows_have_no_circle() {
    fn visit(module: &str, way: &mut Vec<String>) {
        assert!(!way.contains(&module.to_owned()), "a circle: {way:?} → {module}");
        way.push(module.to_owned());
        for (_, next) in ARROWS.iter().filter(|(name, _)| *name == module) {
            next.iter().for_each(|next| visit(next, way));
        }
        way.pop();
    }
    ARROWS.iter().for_each(|(module, _)| visit(module, &mut Vec::new()));
}

#[test]
fn a_file_is_a_room() {
    let mut wrong = Vec::new();
    for (path, text) in ["src", "tests", "examples", "loadtest"].into_iter().flat_map(files) {
        let hall = HALLS.iter().find(|(name, ..)| Path::new(name) == path);
        let most = hall.map_or(ROOM, |(_, most, _)| *most);
        let lines = text.lines().count();
        if lines > most {
            wrong.push(format!("{}: {lines} lines, where {most} are allowed", path.display()));
        }
        if path.file_name().is_some_and(|name| name == "mod.rs") {
            wrong.push(format!("{}: foo.rs stands beside foo/, there is no mod.rs", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unsafe_code_is_in_one_place() {
    let here = Path::new("src/restart/sys");
    let mut wrong = Vec::new();
    for (path, text) in ["src", "examples", "loadtest"].into_iter().flat_map(files) {
        let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        let found =
            code.filter(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe"));
        if !path.with_extension("").starts_with(here) && found.count() > 0 {
            wrong.push(path);
        }
    }
    assert!(wrong.is_empty(), "unsafe code outside {}: {wrong:#?}", here.display());
}

#[test]
fn no_test_is_ignored() {
    let mark = concat!("#[", "ignore");
    let marked: Vec<_> = ["src", "tests", "loadtest"]
        .into_iter()
        .flat_map(files)
        .filter(|(_, text)| text.contains(mark))
        .collect();
    assert!(marked.is_empty(), "{:#?}", marked.iter().map(|(path, _)| path).collect::<Vec<_>>());
}

#[test]
fn the_finder_of_modules_finds_them() {
    let text =
        "use crate::restart::{self, Error};\nuse crate::{admin, proxy::{a, b}, Type};\ncrate::tls::x()";
    assert_eq!(modules_named(text, "crate::"), ["restart", "admin", "proxy", "tls"]);
}
