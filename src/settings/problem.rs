//! What is wrong with a configuration: all of it, in words for the one who wrote it.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use super::protocols::CertificateSettings;

/// How many problems an error prints; a file that is no configuration at all has one on every line.
const PRINTED_MAX: usize = 50;

/// Where a setting was made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// In this configuration file.
    File(PathBuf),
    /// In the environment variable of this name.
    Variable(String),
    /// In exuvia itself.
    Builtin,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where it was written.
    pub origin: Origin,
    /// The key's path, such as `restart.probation`; None when the file as a whole is at fault.
    pub key: Option<String>,
    /// The value as it was written, shortened if it is long; None when it is the key that is wrong or missing.
    pub value: Option<String>,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// Why there are no settings: every problem that was found.
///
/// Its text has one line for each, as far as a person would read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// Invariant: not empty, and ordered by origin and key.
    problems: Vec<Problem>,
    certificates: Vec<CertificateSettings>,
}

impl SettingsError {
    /// Every problem, those of the file first, ordered by key.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The certificates that are named all the same, so that their files can be looked at.
    pub fn certificates(&self) -> &[CertificateSettings] {
        &self.certificates
    }
}

impl std::error::Error for SettingsError {}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().take(PRINTED_MAX).enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{problem}")?;
        }
        match self.problems.len().saturating_sub(PRINTED_MAX) {
            0 => Ok(()),
            more => write!(f, "\n... and {more} more"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if let Some(key) = &self.key {
            write!(f, "{}", shortened(key))?;
            if let Some(value) = &self.value {
                write!(f, " = {value}")?;
            }
            write!(f, ": ")?;
        }
        write!(f, "{}", shortened(&self.message))
    }
}

/// The beginning of a text that someone made too long to read.
fn shortened(text: &str) -> Cow<'_, str> {
    const SHOWN_MAX: usize = 300;
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => Cow::Owned(format!("{}...", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Variable(name) => write!(f, "environment variable {}", name.escape_debug()),
            Origin::Builtin => write!(f, "built-in defaults"),
        }
    }
}

/// The collector that every step of reading adds to.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: Vec<Problem>,
    /// The certificates, if their settings are good.
    pub(super) certificates: Vec<CertificateSettings>,
    /// There is a file, but what it says is not known.
    file_is_useless: bool,
}

impl Problems {
    /// Adds one, unless only the file could tell whether it is one.
    pub(super) fn add(&mut self, problem: Problem) {
        if !self.file_is_useless || matches!(problem.origin, Origin::Variable(_)) {
            self.found.push(problem);
        }
    }

    /// Adds one that is a problem only beside other settings, which a useless file may well make.
    pub(super) fn add_in_context(&mut self, problem: Problem) {
        if !self.file_is_useless {
            self.found.push(problem);
        }
    }

    /// Adds why the file is useless. From here on only what the environment says can be judged, since a value
    /// that seems to be missing may well stand in the file.
    pub(super) fn add_useless_file(&mut self, problems: impl IntoIterator<Item = Problem>) {
        self.found.extend(problems);
        self.file_is_useless = true;
    }

    /// Turns what was found into the outcome.
    pub(super) fn settle<T>(mut self, value: Option<T>) -> Result<T, SettingsError> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => {
                self.found.sort();
                Err(SettingsError { problems: self.found, certificates: self.certificates })
            }
        }
    }
}
