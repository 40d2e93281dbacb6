//! Where the results go: a table to standard output, files into a folder.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use loadtest::results::Results;
use loadtest::{report, table};
use serde::Serialize;

use super::Exit;

#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(super) struct Output {
    /// The folder for report.html and results.json
    #[arg(long, short, value_name = "FOLDER", default_value = "loadtest-results")]
    output: PathBuf,
    /// What is printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Show nothing while it goes on
    #[arg(long, short)]
    pub(super) quiet: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Format {
    /// Tables for people
    Table,
    /// The main table as Markdown
    Markdown,
    /// The whole document
    Json,
}

impl Output {
    pub(super) fn folder(&self) -> &Path {
        &self.output
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Makes the folder: an hour of load must not end with the news that there is none.
    pub(super) fn prepare(&self) -> Result<(), String> {
        fs::create_dir_all(&self.output).map_err(|error| cannot("make the folder", &self.output, &error))
    }

    /// Prints the table, writes the files, and says how it ended.
    pub(super) fn give(&self, results: &Results) -> Result<Exit, String> {
        let json = document(results)?;
        let printed = match self.format {
            Format::Json => print(&json),
            Format::Markdown => print(&table::markdown(results)),
            Format::Table => {
                let page = self.output.join("report.html");
                print(&format!("{}\nreport: {}\n", table::terminal(results), page.display()))
            }
        };
        // What could not be printed is in the files, and the other way round; the verdict is the same.
        let kept = write(&self.output, results, &json).and(printed);
        if !results.verdict.passed
            && let Err(error) = &kept
        {
            writeln!(io::stderr(), "exuvia-loadtest: {error}").ok();
        } else {
            kept?;
        }
        Ok(match (results.verdict.passed, results.verdict.interrupted) {
            (true, _) => Exit::Passed,
            (false, true) => Exit::Interrupted,
            (false, false) => Exit::Failed,
        })
    }
}

/// Something as JSON.
pub(super) fn document<T: Serialize>(of: &T) -> Result<String, String> {
    serde_json::to_string_pretty(of).map(|json| json + "\n").map_err(|error| format!("no JSON: {error}"))
}

/// Writes the page and the document of a run into a folder.
pub(super) fn write(folder: &Path, results: &Results, json: &str) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| cannot("make the folder", folder, &error))?;
    for (name, text) in [("results.json", json), ("report.html", &report::page(results))] {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| cannot("write", &path, &error))?;
    }
    Ok(())
}

/// Prints to standard output. Whoever closed it does not want to know.
pub(super) fn print(text: &str) -> Result<(), String> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {error}"))
        }
        _ => Ok(()),
    }
}

pub(super) fn cannot(what: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}
