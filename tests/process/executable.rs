//! Which file an upgrade starts, however the first one was named and whatever moved since.

use std::fs;
use std::os::unix::fs::symlink;

use super::harness::{EXUVIA, Exuvia, Starter, script};
use super::traffic::get;

/// A program that says `name` and becomes exuvia.
fn release(path: &std::path::Path, name: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // Under the name that it was started by, as if it were the program.
    script(
        path,
        &format!(
            "echo 'this is release {name}' >&2; exec bash -c 'exec -a \"$0\" {EXUVIA} \"$@\"' \"$0\" \"$@\""
        ),
    );
}

#[track_caller]
fn upgrades_to(exuvia: &Exuvia, name: &str) {
    exuvia.upgrade();
    exuvia.says(&format!("this is release {name}"));
    assert_eq!(get(exuvia.address(), "/").unwrap().generation(), exuvia.generation());
}

const SETTINGS: &str = "[restart]\nprobation = \"0s\"\n";

#[test]
fn replaced_by_mv_over_it() {
    let starter = Starter::new(SETTINGS);
    let program = starter.folder().join("bin/exuvia");
    release(&program, "one");
    let exuvia = starter.program(&program).start();
    for name in ["two", "three"] {
        let new = program.with_extension("next");
        release(&new, name);
        fs::rename(&new, &program).unwrap();
        upgrades_to(&exuvia, name);
    }
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_copy_of_the_program_replaced_by_mv() {
    let starter = Starter::new(SETTINGS);
    let program = starter.folder().join("copy");
    fs::copy(EXUVIA, &program).unwrap();
    let exuvia = starter.program(&program).start();
    // The process runs from a file that has no name any more ("/path (deleted)").
    let new = program.with_extension("next");
    release(&new, "two");
    fs::rename(&new, &program).unwrap();
    upgrades_to(&exuvia, "two");
    upgrades_to(&exuvia, "two");
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn behind_a_symbolic_link_that_moves() {
    let starter = Starter::new(SETTINGS);
    let folder = starter.folder().to_owned();
    release(&folder.join("releases/1/exuvia"), "one");
    release(&folder.join("releases/2/exuvia"), "two");
    symlink("releases/1", folder.join("current")).unwrap();
    let exuvia = starter.program(folder.join("current/exuvia")).start();
    symlink("releases/2", folder.join("new")).unwrap();
    fs::rename(folder.join("new"), folder.join("current")).unwrap();
    upgrades_to(&exuvia, "two");
    fs::remove_dir_all(folder.join("releases/1")).unwrap();
    upgrades_to(&exuvia, "two");
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn named_by_a_relative_path() {
    let starter = Starter::new(SETTINGS);
    release(&starter.folder().join("bin/exuvia"), "one");
    let exuvia = starter.program("./bin/exuvia").start();
    release(&exuvia.folder().join("bin/exuvia"), "two");
    upgrades_to(&exuvia, "two");
    upgrades_to(&exuvia, "two");
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn with_the_working_directory_gone() {
    let starter = Starter::new(SETTINGS);
    let directory = starter.folder().join("work");
    fs::create_dir(&directory).unwrap();
    release(&starter.folder().join("bin/exuvia"), "one");
    let exuvia = starter.program("../bin/exuvia").directory(&directory).start();
    fs::remove_dir(&directory).unwrap();
    for name in ["two", "three"] {
        release(&exuvia.folder().join("bin/exuvia"), name);
        upgrades_to(&exuvia, name);
    }
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn another_one_by_the_settings() {
    let exuvia = Exuvia::start(&format!("{SETTINGS}executable = \"next\"\n"));
    release(&exuvia.folder().join("next"), "next");
    upgrades_to(&exuvia, "next");
    assert_eq!(exuvia.stop(), 0);
}
