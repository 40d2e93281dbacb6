//! Durations as people write them: `250ms`, `1m 30s`.

/// One.
pub(super) mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        humantime::parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Two bounds.
pub(super) mod durations {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(
        value: &(Duration, Duration),
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let text = |duration| humantime::format_duration(duration).to_string();
        [text(value.0), text(value.1)].serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<(Duration, Duration), D::Error> {
        let [low, high] = <[String; 2]>::deserialize(deserializer)?;
        let parse = |text: &str| humantime::parse_duration(text).map_err(D::Error::custom);
        Ok((parse(&low)?, parse(&high)?))
    }
}
