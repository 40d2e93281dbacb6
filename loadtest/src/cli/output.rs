//! Where the results go: a table to standard output, files into a folder.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use loadtest::results::Results;
use loadtest::{report, table};

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

    /// Writes the files, prints the table, and says how it ended.
    pub(super) fn give(&self, results: &Results) -> Result<Exit, String> {
        let json = write(&self.output, results)?;
        let page = self.output.join("report.html");
        print(&match self.format {
            Format::Json => json,
            Format::Markdown => table::markdown(results),
            Format::Table => format!("{}\nreport: {}\n", table::terminal(results), page.display()),
        });
        Ok(match (results.verdict.passed, results.verdict.interrupted) {
            (true, _) => Exit::Passed,
            (false, true) => Exit::Interrupted,
            (false, false) => Exit::Failed,
        })
    }
}

/// Writes the page and the document into a folder. Gives the document.
pub(super) fn write(folder: &Path, results: &Results) -> Result<String, String> {
    let json = serde_json::to_string_pretty(results).map_err(|error| format!("no JSON: {error}"))? + "\n";
    fs::create_dir_all(folder).map_err(|error| cannot("make the folder", folder, &error))?;
    for (name, text) in [("results.json", &json), ("report.html", &report::page(results))] {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| cannot("write", &path, &error))?;
    }
    Ok(json)
}

/// Prints to standard output.
pub(super) fn print(text: &str) -> Exit {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Exit::Useless,
        _ => Exit::Passed,
    }
}

pub(super) fn cannot(what: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}
