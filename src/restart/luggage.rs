//! What a daemon gives the next generation beside its sockets.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// Texts by name that go from a process to its child, within the channel between the two and nowhere else. The
/// core does not look into them, and never prints them: they may be secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Luggage(BTreeMap<String, String>);

/// The most of it, in bytes, as it is written.
const MAX_LUGGAGE: usize = 32 * 1024;

impl Luggage {
    /// Adds a text, in place of another of this name.
    pub fn insert(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.0.insert(name.into(), text.into());
    }

    /// Takes a text out.
    pub fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// How much more of it there may be, in bytes, as it is written.
    pub fn room(&self) -> usize {
        MAX_LUGGAGE.saturating_sub(serde_json::to_vec(self).map_or(MAX_LUGGAGE, |text| text.len()))
    }

    /// This, or nothing if it is too much for a message: the next generation is to start in any case.
    pub(crate) fn within_limit(self) -> Luggage {
        match serde_json::to_vec(&self).map(|text| text.len()) {
            Ok(..=MAX_LUGGAGE) => self,
            size => {
                let size = size.unwrap_or_default();
                tracing::warn!(size, limit = MAX_LUGGAGE, "too much to be handed on to the next generation");
                Luggage::default()
            }
        }
    }
}

/// What is not understood is left out: it must not keep a child from its offer, nor be told in an error.
impl<'de> Deserialize<'de> for Luggage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Object(entries) => entries,
            _ => serde_json::Map::new(),
        };
        let texts = texts.into_iter().filter_map(|(name, text)| match text {
            serde_json::Value::String(text) => Some((name, text)),
            _ => None,
        });
        Ok(Luggage(texts.collect()))
    }
}

impl fmt::Debug for Luggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// How a daemon packs, at the moment at which a child is made.
pub(crate) struct Packer(pub(crate) Box<dyn Fn() -> Luggage>);

impl Default for Packer {
    fn default() -> Self {
        Packer(Box::new(Luggage::default))
    }
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_and_texts_are_not() {
        let mut luggage = Luggage::default();
        luggage.insert("keys", "secret");
        assert_eq!(format!("{luggage:?}"), r#"{"keys"}"#);
        assert_eq!(luggage.take("keys").as_deref(), Some("secret"));
        assert_eq!(luggage.take("keys"), None);
    }

    #[test]
    fn what_is_not_understood_is_left_out() {
        let read = |text| serde_json::from_str::<Luggage>(text).unwrap();
        for text in ["null", "7", "[]", "\"x\"", "{}", r#"{"a":1,"b":null,"c":["x"]}"#] {
            assert_eq!(read(text), Luggage::default(), "{text}");
        }
        assert_eq!(read(r#"{"a":1,"b":"c"}"#).take("b").as_deref(), Some("c"));
    }

    #[test]
    fn too_much_stays_behind() {
        let with = |text: String| {
            let mut luggage = Luggage::default();
            luggage.insert("a", text);
            luggage.within_limit()
        };
        assert_ne!(with("x".repeat(MAX_LUGGAGE - 8)), Luggage::default());
        assert_eq!(with("x".repeat(MAX_LUGGAGE - 7)), Luggage::default());
        // An escape takes six bytes.
        assert_eq!(with("\u{1}".repeat(MAX_LUGGAGE / 6)), Luggage::default());
    }
}
