//! What a value is called.

use std::fmt;
use std::sync::Arc;

/// The name of a time series and its labels, as one text: the name, then each label's name and value, all separated by
/// NUL, which none of them may hold.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Series(Arc<str>);

/// The longest, in bytes.
pub(super) const MAX_BYTES: usize = 16 * 1024;

impl Series {
    /// NUL in any of the texts becomes a question mark.
    pub fn new(name: &str, labels: &[(&str, &str)]) -> Series {
        let mut text = name.replace('\0', "?");
        for part in labels.iter().flat_map(|(name, value)| [name, value]) {
            text.push('\0');
            text.push_str(&part.replace('\0', "?"));
        }
        let end = (0..=text.len().min(MAX_BYTES)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        Series(text.into())
    }

    pub(super) fn from_bytes(bytes: Vec<u8>) -> Option<Series> {
        let text = String::from_utf8(bytes).ok()?;
        let parts = text.split('\0').count();
        (text.len() <= MAX_BYTES && !text.starts_with('\0') && !text.is_empty() && parts % 2 == 1)
            .then(|| Series(text.into()))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.0.split('\0').next().unwrap_or_default()
    }

    /// The labels, in the order in which they were given.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut parts = self.0.split('\0').skip(1);
        std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels().find(|(label, _)| *label == name).map(|(_, value)| value)
    }
}

impl fmt::Debug for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        f.debug_map().entries(self.labels()).finish()
    }
}
