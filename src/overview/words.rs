//! What phases are called, and who serves: in one place, so that the page, the commands and the headline say the same.

/// The words for each phase, as people read them.
pub const PHASES: [(&str, &str); 14] = [
    ("starting", "starting"),
    ("candidate", "candidate"),
    ("serving", "serving"),
    ("upgrading", "upgrading"),
    ("aborting", "ends a failed one"),
    ("reclaiming", "taking back"),
    ("probation", "watching"),
    ("committing", "handing over"),
    ("rolled_back", "rolled back"),
    ("lame_duck", "about to stop"),
    ("draining", "draining"),
    ("cut", "cutting the rest"),
    ("gone", "gone"),
    ("unknown", "unknown"),
];

/// What a phase is called; a later version may have one that is not known.
pub fn phase(name: &str) -> &str {
    PHASES.iter().find(|(phase, _)| *phase == name).map_or(name, |(_, words)| words)
}

/// Who serves, on one line, of all generations with their phases. While one watches another, neither serves: the new one
/// takes new connections, the old one has its own still.
pub fn headline<'a>(generations: impl IntoIterator<Item = (u32, &'a str)>) -> String {
    let all: Vec<(u32, &str)> = generations.into_iter().collect();
    let of =
        |wanted: &[&str]| all.iter().filter(|(_, phase)| wanted.contains(phase)).map(|(one, _)| *one).max();
    let old = of(&["probation", "committing", "reclaiming"]);
    // What watches has a successor, whether that is known by name or not.
    let new = of(&["candidate"]);
    if let Some(old) = of(&["probation"]) {
        let new = new.map_or_else(|| "its successor".to_owned(), |new| format!("generation {new}"));
        return format!("generation {old} watches {new}, which takes new connections");
    }
    match (old, new) {
        (Some(old), new) if of(&["committing"]) == Some(old) => {
            let new = new.map_or_else(|| "its successor".to_owned(), |new| format!("generation {new}"));
            format!("generation {old} hands over to {new}")
        }
        (Some(old), _) => format!("generation {old} takes back what it had handed over"),
        (None, Some(new)) if of(&["serving"]).is_none() => {
            format!("generation {new} takes new connections, watched")
        }
        _ => match (of(&["serving", "upgrading", "aborting"]), of(&["lame_duck"])) {
            (Some(one), _) if of(&["upgrading"]) == Some(one) => {
                format!("generation {one} serves and starts its successor")
            }
            (Some(one), _) if of(&["aborting"]) == Some(one) => {
                format!("generation {one} serves and ends a successor that failed")
            }
            (Some(one), _) => format!("generation {one} serves"),
            (None, Some(one)) => format!("generation {one} accepts, but is about to stop"),
            (None, None) => match all.iter().map(|(one, _)| *one).max() {
                Some(one) => format!("generation {one} stops: it finishes what it had accepted"),
                None => "no generation serves".to_owned(),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_serves_is_told_in_every_phase() {
        for (generations, expected) in [
            (&[(1, "draining"), (2, "serving")][..], "generation 2 serves"),
            (&[(2, "upgrading")], "generation 2 serves and starts its successor"),
            (
                &[(5, "probation"), (6, "candidate")],
                "generation 5 watches generation 6, which takes new connections",
            ),
            (&[(5, "probation")], "generation 5 watches its successor, which takes new connections"),
            (&[(5, "committing"), (6, "candidate")], "generation 5 hands over to generation 6"),
            (&[(5, "rolled_back"), (4, "serving")], "generation 4 serves"),
            (&[(4, "draining"), (5, "lame_duck")], "generation 5 accepts, but is about to stop"),
            (&[(4, "draining"), (5, "cut")], "generation 5 stops: it finishes what it had accepted"),
            (&[], "no generation serves"),
        ] {
            assert_eq!(headline(generations.iter().copied()), expected, "{generations:?}");
        }
    }
}
