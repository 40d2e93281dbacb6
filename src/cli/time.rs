//! Durations, for people.

/// How long something took, from milliseconds: `38 ms`, `5.04 s`, `2 min 5 s`.
pub(super) fn exactly(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => {
            let text = format!("{}.{:02}", ms / 1000, ms % 1000 / 10);
            format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => roughly(ms),
    }
}

/// An age or a time that is left, from milliseconds: `0 s`, `5 s`, `2 min 5 s`, `3 h 4 min`, `2 d 3 h`.
pub(super) fn roughly(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let seconds = ms / 1000;
    let Some(first) = UNITS.iter().position(|(unit, _)| seconds >= *unit) else { return "0 s".into() };
    let (unit, name) = UNITS[first];
    let mut text = format!("{} {name}", seconds / unit);
    if let Some((smaller, name)) = UNITS.get(first + 1)
        && seconds % unit / smaller > 0
    {
        text.push_str(&format!(" {} {name}", seconds % unit / smaller));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_told_exactly() {
        for (ms, text) in [
            (0, "0 ms"),
            (38, "38 ms"),
            (999, "999 ms"),
            (1_000, "1 s"),
            (5_000, "5 s"),
            (5_042, "5.04 s"),
            (5_500, "5.5 s"),
            (10_000, "10 s"),
            (59_999, "59.99 s"),
            (60_000, "1 min"),
        ] {
            assert_eq!(exactly(ms), text);
        }
    }

    #[test]
    fn what_goes_on_is_told_roughly() {
        for (seconds, text) in [
            (0, "0 s"),
            (5, "5 s"),
            (60, "1 min"),
            (125, "2 min 5 s"),
            (3_600, "1 h"),
            (11_045, "3 h 4 min"),
            (86_400 * 2 + 3_600 * 3, "2 d 3 h"),
            (86_400 * 400, "400 d"),
        ] {
            assert_eq!(roughly(seconds * 1000 + 999), text);
        }
    }
}
