//! `exuvia status`: who serves, who drains, where.

use std::path::Path;

use http::StatusCode;

use super::screen::Screen;
use super::time::roughly;
use super::{Exit, Trouble, answered};
use crate::control::StatusReport;
use crate::control::client;
use crate::overview::words;
use crate::restart::{
    Failure, GenerationStatus, KindStatus, PastUpgrade, Phase, Status, Trial, Verdict, cost_words,
};

/// Asks the process behind `socket` and prints what it answers.
pub(super) async fn run(socket: &Path, json: bool, screen: &mut Screen) -> Result<Exit, Trouble> {
    let answer = client::status(socket).await?;
    if answer.status != StatusCode::OK {
        return Err(Trouble::answered("status", &answer));
    }
    // In any case, so that what is not exuvia's answer is not passed on.
    let report: StatusReport = answer.json(socket)?;
    if json {
        screen.raw(&answer.body).ok();
    } else {
        screen.line(&page(&report));
    }
    Ok(Exit::Done)
}

/// The report as text, without the end of its last line.
fn page(report: &StatusReport) -> String {
    let StatusReport { status, admin, control, config } = report;
    let mut facts = vec![
        ["executable".into(), status.executable.clone()],
        ["configuration".into(), config.clone().unwrap_or_else(|| "defaults and environment".into())],
        ["control".into(), control.clone()],
        ["admin".into(), admin.as_ref().map_or("none".into(), |address| format!("http://{address}"))],
    ];
    if let Some(verdict) = &status.last_upgrade {
        let past = status.upgrades.last().filter(|past| past.result == "committed" || past.cost.is_some());
        let cost = past.map(|past| format!("; {}", cost_line(past, &status.generations)));
        facts.push(["last upgrade".into(), verdict_words(verdict) + &cost.unwrap_or_default()]);
    }
    let costly = |past: &&PastUpgrade| past.cost.as_ref().is_some_and(|cost| !cost.is_empty());
    for past in status.upgrades.iter().rev().skip(1).filter(costly) {
        let line = format!("{} to {}: {}", past.from, past.to, cost_line(past, &status.generations));
        facts.push(["earlier".into(), line]);
    }
    if let Some(Trial { generation, done, wanted, left_ms }) = &status.trial {
        let wanted = if *wanted > 0 { format!(" of {wanted} that are wanted") } else { String::new() };
        let answered = answered::requests(done);
        let left = roughly(*left_ms);
        let words = format!("generation {generation} has answered {answered}{wanted}; {left} left at most");
        facts.push(["probation".into(), words]);
    }
    if status.accept_errors > 0 {
        facts.push(["accept errors".into(), status.accept_errors.to_string()]);
    }

    let mut generations =
        vec![["GENERATION", "PID", "VERSION", "PHASE", "AGE", "LEFT", "CONNECTIONS"].map(str::to_owned)];
    generations.extend(status.generations.iter().map(generation_row));
    let mut listeners = vec![["LISTENER", "ADDRESS", "SOCKETS"].map(str::to_owned)];
    listeners.extend(
        status.listeners.iter().map(|it| [it.name.clone(), it.address.clone(), it.sockets.to_string()]),
    );

    format!(
        "exuvia {}: {} (pid {})\n\n{}\n\n{}\n\n{}",
        status.version,
        headline(status),
        status.pid,
        table(&facts),
        table(&generations),
        table(&listeners),
    )
}

fn generation_row(one: &GenerationStatus) -> [String; 7] {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let connections: Vec<String> =
        one.connections.iter().filter(|kind| kind.open != 0).map(kind_words).collect();
    [
        one.generation.to_string(),
        one.pid.to_string(),
        or_dash(&one.version),
        phase_words(one.phase),
        roughly(one.age_ms),
        or_dash(&one.left_ms.map(roughly).unwrap_or_default()),
        or_dash(&connections.join("; ")),
    ]
}

/// What an upgrade has cost, or may still.
fn cost_line(past: &PastUpgrade, generations: &[GenerationStatus]) -> String {
    let leaver = past.leaver();
    let alive = generations.iter().find(|one| one.generation == leaver);
    match (&past.cost, alive.map(|one| one.left_ms)) {
        (Some(cost), _) => format!("{} cut or lost by generation {leaver}", cost_words(cost)),
        (None, Some(Some(left))) => {
            format!("generation {leaver} drains, and cuts what is left in {}", roughly(left))
        }
        // It has not answered in time.
        (None, Some(None)) => format!("generation {leaver} drains"),
        (None, None) => "nothing is known of what it cost".to_owned(),
    }
}

fn kind_words(kind: &KindStatus) -> String {
    format!("{} {} open, {} active", kind.kind, kind.open, kind.active)
}

fn phase_words(phase: Option<Phase>) -> String {
    phase.map_or("no answer".into(), |phase| words::phase(phase.as_str()).to_owned())
}

/// Who serves, as the status page says it. What the one that answers does is certain.
fn headline(status: &Status) -> String {
    let others = status.generations.iter().filter(|one| one.generation != status.generation);
    let others = others.filter_map(|one| Some((one.generation, one.phase?.as_str())));
    words::headline(others.chain([(status.generation, status.phase.as_str())]))
}

fn verdict_words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Committed => "committed".into(),
        Verdict::RolledBack => "rolled back".into(),
        Verdict::Failed(Failure { step, message }) => {
            format!("failed at step {step}: {}", message.lines().next().unwrap_or_default())
        }
    }
}

/// The rows with their columns below each other.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restart::ListenerStatus;

    fn kind(kind: &str, open: i64, active: i64) -> KindStatus {
        KindStatus { kind: kind.into(), began: 100, open, active, ends: vec![] }
    }

    fn report() -> StatusReport {
        let old = GenerationStatus {
            generation: 1,
            pid: 4700,
            version: "0.1.0".into(),
            phase: Some(Phase::Draining),
            age_ms: 7_200_000,
            connections: vec![kind("http1", 3, 1), kind("tunnel", 0, 0)],
            left_ms: Some(25_400),
        };
        let new = GenerationStatus {
            generation: 2,
            pid: 4711,
            version: "0.2.0".into(),
            phase: Some(Phase::Serving),
            age_ms: 12_000,
            connections: vec![kind("http1", 10, 2), kind("tunnel", 2, 2)],
            left_ms: None,
        };
        let status = Status {
            generation: 2,
            pid: 4711,
            version: "0.2.0".into(),
            phase: Phase::Serving,
            executable: "/opt/exuvia/bin/exuvia".into(),
            listeners: vec![ListenerStatus {
                name: "web".into(),
                address: "127.0.0.1:8080".into(),
                sockets: 2,
            }],
            accept_errors: 0,
            last_upgrade: None,
            trial: None,
            upgrades: Vec::new(),
            generations: vec![old, new],
        };
        StatusReport {
            status,
            admin: Some("127.0.0.1:9090".into()),
            control: "/run/exuvia/control.sock".into(),
            config: Some("/etc/exuvia/exuvia.toml".into()),
        }
    }

    #[test]
    fn the_page_says_who_serves_and_who_drains() {
        let expected = "\
exuvia 0.2.0: generation 2 serves (pid 4711)

executable     /opt/exuvia/bin/exuvia
configuration  /etc/exuvia/exuvia.toml
control        /run/exuvia/control.sock
admin          http://127.0.0.1:9090

GENERATION  PID   VERSION  PHASE     AGE   LEFT  CONNECTIONS
1           4700  0.1.0    draining  2 h   25 s  http1 3 open, 1 active
2           4711  0.2.0    serving   12 s  -     http1 10 open, 2 active; tunnel 2 open, 2 active

LISTENER  ADDRESS         SOCKETS
web       127.0.0.1:8080  2";
        assert_eq!(page(&report()), expected);
    }

    #[test]
    fn what_is_not_known_has_a_dash() {
        let one = GenerationStatus {
            version: String::new(),
            phase: None,
            connections: vec![],
            left_ms: None,
            ..report().status.generations.remove(0)
        };
        assert_eq!(generation_row(&one), ["1", "4700", "-", "no answer", "2 h", "-", "-"]);
    }

    #[test]
    fn what_upgrades_have_cost_is_on_the_page() {
        let mut report = report();
        report.status.last_upgrade = Some(Verdict::Committed);
        let past = |from, cost| PastUpgrade {
            from,
            to: from + 1,
            result: "committed".into(),
            cost,
            ..PastUpgrade::default()
        };
        report.status.upgrades = vec![past(1, None)];
        let words = page(&report);
        let expected = "\nlast upgrade   committed; generation 1 drains, and cuts what is left in 25 s\n";
        assert!(words.contains(expected), "{words}");
        let cost = |n| Some([("requests".to_owned(), n)].into());
        report.status.upgrades = vec![past(1, cost(3)), past(2, Some([].into())), past(3, cost(1))];
        let words = page(&report);
        let expected = "\nlast upgrade   committed; 1 request cut or lost by generation 3\n\
            earlier        1 to 2: 3 requests cut or lost by generation 1\n";
        assert!(words.contains(expected), "{words}");
    }

    #[test]
    fn troubles_are_on_the_page() {
        let mut report = report();
        report.status.accept_errors = 7;
        report.status.last_upgrade =
            Some(Verdict::Failed(Failure::new("exec", "no such file\nits last words")));
        let page = page(&report);
        assert!(page.contains("\nlast upgrade   failed at step exec: no such file\n"), "{page}");
        assert!(page.contains("\naccept errors  7\n"), "{page}");
    }
}
