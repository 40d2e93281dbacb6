//! What one generation tells the next about names.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The most of it, in bytes: it goes with other things, and too much of all means that nothing goes. Names that do not
/// fit are looked up.
const MAX: usize = 8 * 1024;

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    addresses: Vec<IpAddr>,
    /// For how long their time has been over.
    #[serde(default)]
    stale_s: u64,
}

pub(super) fn pack<'n>(
    known: impl Iterator<Item = (&'n str, Arc<[IpAddr]>, Instant)>,
    now: Instant,
) -> Option<String> {
    let mut text = String::new();
    for (name, addresses, until) in known {
        let stale_s = now.saturating_duration_since(until).as_secs();
        let entry = Entry { name: name.to_owned(), addresses: addresses.to_vec(), stale_s };
        let Ok(line) = serde_json::to_string(&entry) else { continue };
        // Quotes are escaped once more on the way.
        let size = |text: &str| text.len() + text.matches('"').count();
        if size(&text) + size(&line) < MAX {
            text.push_str(&line);
            text.push(' ');
        }
    }
    (!text.is_empty()).then_some(text)
}

/// The addresses by name, and when their time was over. What is not understood is left out.
pub(super) fn unpack(text: &str, now: Instant) -> HashMap<String, (Arc<[IpAddr]>, Instant)> {
    let entries = serde_json::Deserializer::from_str(text).into_iter::<Entry>().map_while(Result::ok);
    let entries = entries.filter(|entry| !entry.addresses.is_empty());
    let known = |Entry { name, addresses, stale_s }| {
        let until = now.checked_sub(Duration::from_secs(stale_s)).unwrap_or(now);
        (name, (addresses.into(), until))
    };
    entries.map(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        let now = Instant::now() + Duration::from_secs(1000);
        let addresses: Arc<[IpAddr]> = ["::1".parse().unwrap(), [127, 0, 0, 1].into()].into();
        let until = now - Duration::from_secs(7);
        let known = [
            ("a.test", addresses.clone(), until),
            ("b.test", addresses.clone(), now + Duration::from_secs(9)),
        ];
        let text = pack(known.into_iter(), now).unwrap();
        let handed = unpack(&text, now);
        assert_eq!(handed["a.test"], (addresses.clone(), until));
        assert_eq!(handed["b.test"], (addresses, now));
        assert_eq!(pack(std::iter::empty(), now), None);
    }

    #[test]
    fn what_does_not_fit_stays_behind() {
        let names: Vec<String> = (0..1000).map(|n| format!("server-{n}.test")).collect();
        let addresses: Arc<[IpAddr]> = [[127, 0, 0, 1].into()].into();
        let now = Instant::now();
        let text = pack(names.iter().map(|name| (name.as_str(), addresses.clone(), now)), now).unwrap();
        assert!(serde_json::to_string(&text).unwrap().len() <= MAX + 2);
        assert!(unpack(&text, now).len() > 80);
    }

    #[test]
    fn what_is_not_understood_is_left_out() {
        for text in
            ["", "x", "{}", "[]", r#"{"name":"a","addresses":["x"]}"#, r#"{"name":"a","addresses":[]}"#]
        {
            assert!(unpack(text, Instant::now()).is_empty(), "{text}");
        }
        let text = r#"{"name":"a","addresses":["::1"],"stale_s":18446744073709551615,"later":1} x"#;
        assert_eq!(unpack(text, Instant::now()).len(), 1);
    }
}
