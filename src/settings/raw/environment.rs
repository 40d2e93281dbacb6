//! The environment as a layer of settings.

use std::collections::BTreeMap;

use super::{KEYS, Key, Layer, NAMED, Origins, dotted, keys};
use crate::settings::problem::{Origin, Problem, Problems};
use crate::settings::value::Leaf;

const PREFIX: &str = "EXUVIA__";
const SEPARATOR: &str = "__";

/// Adds every variable of ours to the layer, and those that set nothing to the problems.
///
/// `EXUVIA__LISTENERS__WEB__ADDRESS` is about the listener of the file that has this name in any case, or else
/// about one that the file does not have, in lower case.
pub(super) fn add(
    environment: impl IntoIterator<Item = (String, String)>,
    from_file: &Layer,
    layer: &mut Layer,
    origins: &mut Origins,
    problems: &mut Problems,
) {
    let mut ours: Vec<_> = environment.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    ours.sort();
    let mut set_by = BTreeMap::new();

    for (variable, text) in ours {
        let mut refuse = |message| {
            problems.add(Problem {
                origin: Origin::Variable(variable.clone()),
                key: None,
                value: None,
                message,
            });
        };
        let Some((key, name)) = parse(&variable[PREFIX.len()..]) else {
            refuse(unknown(&variable));
            continue;
        };
        let name = name.map(|name| {
            let in_file = from_file.names(key.section).find(|known| known.eq_ignore_ascii_case(name));
            in_file.map_or_else(|| name.to_ascii_lowercase(), str::to_owned)
        });
        let path = key.parts(name.as_deref());
        if let Some(other) = set_by.insert(dotted(&path), variable.clone()) {
            let (key, text) = (dotted(&path), Leaf::Text(text));
            refuse(format!("sets {key} to {text}, which {other} sets already; expected one of the two"));
            continue;
        }
        layer.set(&path, key.value_of_text(&text));
        origins.variables.insert(dotted(&path), variable.clone());
    }
}

/// The key that a variable sets, given its name without the prefix, and the name of the table that it is in.
fn parse(name: &str) -> Option<(&'static Key, Option<&str>)> {
    let find = |section: &str, name: &str| {
        KEYS.iter().find(|key| key.section == section && key.name.to_ascii_uppercase() == name)
    };
    for section in NAMED {
        let prefix = format!("{}{SEPARATOR}", section.to_ascii_uppercase());
        if let Some(in_section) = name.strip_prefix(&prefix) {
            let (table, name) = in_section.rsplit_once(SEPARATOR)?;
            return find(section, name).map(|key| (key, Some(table)));
        }
    }
    match name.split_once(SEPARATOR) {
        None => find("", name),
        Some((section, name)) => find(&section.to_ascii_lowercase(), name)
            .filter(|key| key.section.to_ascii_uppercase() == section),
    }
    .map(|key| (key, None))
}

/// What to say of a variable that sets nothing.
fn unknown(variable: &str) -> String {
    let variables: Vec<String> = KEYS.iter().map(Key::variable).collect();
    match keys::nearest(variable, variables.iter().map(String::as_str)) {
        Some(meant) => format!("no setting has this name; did you mean {meant}?"),
        None => "no setting has this name; expected EXUVIA__SECTION__KEY in upper case, such as \
                 EXUVIA__RESTART__PROBATION, EXUVIA__LISTENERS__WEB__ADDRESS or EXUVIA__WORKERS"
            .to_owned(),
    }
}
