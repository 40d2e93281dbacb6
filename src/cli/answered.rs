//! What a new process has answered, in words.

use std::collections::BTreeMap;

/// Such as `12 requests (11 2xx, 1 5xx)`, and `no request`.
pub(super) fn requests(answered: &BTreeMap<String, u64>) -> String {
    let all: u64 = answered.values().sum();
    let by_class: Vec<String> = answered.iter().map(|(class, count)| format!("{count} {class}")).collect();
    match all {
        0 => "no request".to_owned(),
        1 => format!("1 request ({})", by_class.join(", ")),
        _ => format!("{all} requests ({})", by_class.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_many_and_how() {
        let answered = |all: &[(&str, u64)]| all.iter().map(|(class, n)| ((*class).to_owned(), *n)).collect();
        assert_eq!(requests(&answered(&[])), "no request");
        assert_eq!(requests(&answered(&[("2xx", 1)])), "1 request (1 2xx)");
        assert_eq!(requests(&answered(&[("2xx", 11), ("5xx", 1)])), "12 requests (11 2xx, 1 5xx)");
    }
}
