//! Raw scenario → checked scenario: the defaults, and every problem by its key.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Carrier, DEFAULT, Disturb, Kind, Scenario, Traffic, Turn, Victim, Way, raw};

/// What is wrong with a scenario.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It is not TOML, or has a key that does not exist.
    #[error("{0}")]
    Shape(#[from] toml::de::Error),
    /// A value that cannot be.
    #[error("{key} = {value}: {allowed}")]
    Value {
        /// Where it stands.
        key: String,
        /// What stands there.
        value: String,
        /// What may stand there.
        allowed: String,
    },
}

/// As long as it takes until all have connected.
const WARM_UP: Duration = Duration::from_secs(1);

fn wrong(key: impl Into<String>, value: impl Display, allowed: impl Into<String>) -> Problem {
    Problem::Value { key: key.into(), value: value.to_string(), allowed: allowed.into() }
}

fn duration(key: &str, text: Option<&String>, default: Duration) -> Result<Duration, Problem> {
    let Some(text) = text else { return Ok(default) };
    let parsed =
        humantime::parse_duration(text).ok().filter(|duration| *duration <= Duration::from_secs(86_400));
    parsed.ok_or_else(|| {
        wrong(
            key,
            format!("{text:?}"),
            "a duration with its unit, such as \"250ms\" or \"1m 30s\", up to \"24h\"",
        )
    })
}

fn within<T: PartialOrd + Display + Copy>(key: &str, value: T, low: T, high: T) -> Result<T, Problem> {
    if value >= low && value <= high {
        Ok(value)
    } else {
        Err(wrong(key, value, format!("from {low} to {high}")))
    }
}

impl Scenario {
    /// The scenario of a file's text.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its key.
    pub fn parse(text: &str) -> Result<Scenario, Problem> {
        let raw: raw::Scenario = toml::from_str(text)?;
        if raw.traffic.is_empty() {
            return Err(wrong("traffic", "[]", "at least one [[traffic]] with a kind"));
        }
        let seconds = |seconds| Duration::from_secs(seconds);
        let traffic: Vec<Traffic> =
            raw.traffic.iter().enumerate().map(|(at, raw)| traffic(at, raw)).collect::<Result<_, _>>()?;
        for (at, one) in traffic.iter().enumerate() {
            if traffic[..at].iter().any(|other| other.name == one.name) {
                return Err(wrong(
                    format!("traffic[{at}].name"),
                    format!("{:?}", one.name),
                    "a name of its own for each",
                ));
            }
        }
        let lasts = duration("duration", raw.duration.as_ref(), seconds(30))?;
        let scenario = Scenario {
            seed: raw.seed.unwrap_or(1),
            duration: lasts,
            warm_up: duration("warm_up", raw.warm_up.as_ref(), WARM_UP.min(lasts / 10))?,
            timeout: duration("timeout", raw.timeout.as_ref(), seconds(10))?,
            threads: within("threads", raw.threads.unwrap_or(1), 1, 64)?,
            disturb: disturb(&raw.disturb.unwrap_or_default())?,
            traffic,
        };
        within("duration", scenario.duration.as_secs_f64(), 0.1, 86_400.0)?;
        if scenario.warm_up >= lasts {
            let text = humantime::format_duration(scenario.warm_up);
            return Err(wrong("warm_up", format!("\"{text}\""), "shorter than the duration"));
        }
        due(&scenario)?;
        within("timeout", scenario.timeout.as_secs_f64(), 0.001, 3_600.0)?;
        Ok(scenario)
    }

    /// The built-in scenario with other kinds of traffic: each `kind=share`, and what is to be divided among them.
    ///
    /// Connections are divided by the shares; the rate is, too, among those kinds that have one.
    ///
    /// # Errors
    ///
    /// A share that cannot be read, or a kind that does not exist.
    pub fn by_shares(shares: &str, connections: usize, rate: f64) -> Result<Scenario, Problem> {
        let mut parsed: Vec<(Kind, f64)> = Vec::new();
        for share in shares.split(',') {
            let (kind, part) = share.split_once('=').unwrap_or((share, "1"));
            let part = f64::from_str(part).ok().filter(|part| *part > 0.0 && part.is_finite());
            let part = part.ok_or_else(|| {
                wrong("--shares", share, "kind=share, such as http1=3,http2=1, each share above 0")
            })?;
            let kind = kind_named("--shares", kind)?;
            if parsed.iter().any(|(other, _)| *other == kind) {
                return Err(wrong(
                    "--shares",
                    shares,
                    format!("each kind once, but {} is there twice", kind.name()),
                ));
            }
            parsed.push((kind, part));
        }
        let all: f64 = parsed.iter().map(|(_, part)| part).sum();
        let rated: f64 = parsed.iter().filter(|(kind, _)| has_rate(*kind)).map(|(_, part)| part).sum();
        let mut scenario = Scenario::parse(DEFAULT)?;
        let mut kinds = Vec::new();
        for (kind, part) in parsed {
            let mut one = defaults(kind);
            one.connections = share_of(connections, part / all / one.streams.max(1) as f64).max(1);
            if has_rate(kind) {
                one.rate = rate * part / rated;
            }
            kinds.push(one);
        }
        scenario.traffic = kinds;
        Ok(scenario)
    }
}

/// A share of a number, rounded.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "small and positive"
)]
fn share_of(whole: usize, part: f64) -> usize {
    (whole as f64 * part).round() as usize
}

fn kind_named(key: &str, name: &str) -> Result<Kind, Problem> {
    let names = || Kind::ALL.map(Kind::name).join(", ");
    Kind::ALL
        .into_iter()
        .find(|kind| kind.name() == name)
        .ok_or_else(|| wrong(key, format!("{name:?}"), format!("one of {}", names())))
}

/// Whether its exchanges come at a rate; the others take the time that they take.
fn has_rate(kind: Kind) -> bool {
    !matches!(kind, Kind::Idle | Kind::Upload | Kind::Download | Kind::Streamed)
}

/// Which fields mean something for a kind, beside `kind`, `name` and `connections`.
pub(super) fn fields(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Http1 | Kind::Http1New | Kind::Http1Tls => &["rate", "pause", "bytes"],
        Kind::Http2 => &["rate", "pause", "bytes", "streams"],
        Kind::Idle => &["pause", "bytes"],
        Kind::Upload | Kind::Download | Kind::Streamed => &["pause", "bytes", "lasts", "over", "streams"],
        Kind::WebSocket | Kind::WebSocketTls => &["rate", "pause", "bytes", "messages"],
        Kind::Grpc => &["rate", "pause", "bytes", "messages", "streams"],
    }
}

fn defaults(kind: Kind) -> Traffic {
    let seconds = Duration::from_secs;
    let none = (Duration::ZERO, Duration::ZERO);
    let small = Traffic {
        kind,
        name: kind.name().to_owned(),
        connections: 8,
        rate: 0.0,
        pause: none,
        bytes: (100, 4_000),
        streams: 1,
        messages: 0,
        lasts: Duration::ZERO,
        over: Carrier::Http1,
    };
    match kind {
        Kind::Http1 | Kind::Http1New | Kind::Http1Tls => small,
        Kind::Idle => Traffic { pause: (seconds(1), seconds(4)), ..small },
        Kind::Http2 => Traffic { streams: 4, ..small },
        Kind::Upload | Kind::Download => Traffic { bytes: (200_000, 2_000_000), lasts: seconds(3), ..small },
        Kind::Streamed => Traffic { bytes: (5_000, 50_000), lasts: seconds(3), ..small },
        Kind::WebSocket | Kind::WebSocketTls => Traffic { messages: 40, ..small },
        Kind::Grpc => Traffic { messages: 40, streams: 4, ..small },
    }
}

fn traffic(at: usize, raw: &raw::Traffic) -> Result<Traffic, Problem> {
    let key = |field: &str| format!("traffic[{at}].{field}");
    let kind = kind_named(&key("kind"), &raw.kind)?;
    let given = [
        ("rate", raw.rate.is_some()),
        ("pause", raw.pause.is_some()),
        ("bytes", raw.bytes.is_some()),
        ("streams", raw.streams.is_some()),
        ("messages", raw.messages.is_some()),
        ("lasts", raw.lasts.is_some()),
        ("over", raw.over.is_some()),
    ];
    for (field, given) in given {
        if given && !fields(kind).contains(&field) {
            let allowed = format!("means nothing for {}, which has {}", kind.name(), fields(kind).join(", "));
            return Err(wrong(key(field), "…", allowed));
        }
    }
    let default = defaults(kind);
    let over = match raw.over.as_deref() {
        None => default.over,
        Some("http1") => Carrier::Http1,
        Some("http1-tls") => Carrier::Http1Tls,
        Some("http2") => Carrier::Http2,
        Some(other) => {
            return Err(wrong(key("over"), format!("{other:?}"), "one of http1, http1-tls, http2"));
        }
    };
    let pause = match &raw.pause {
        None => default.pause,
        Some([low, high]) => {
            let pause = (
                duration(&key("pause"), Some(low), Duration::ZERO)?,
                duration(&key("pause"), Some(high), Duration::ZERO)?,
            );
            if pause.0 > pause.1 {
                return Err(wrong(key("pause"), format!("[{low:?}, {high:?}]"), "the shorter one first"));
            }
            pause
        }
    };
    let bytes = raw.bytes.map_or(default.bytes, |[low, high]| (low, high));
    if bytes.0 > bytes.1 || bytes.1 > 1 << 30 {
        return Err(wrong(key("bytes"), format!("{bytes:?}"), "the smaller one first, up to 1073741824"));
    }
    let one = Traffic {
        kind,
        name: raw.name.clone().unwrap_or(default.name),
        connections: within(&key("connections"), raw.connections.unwrap_or(default.connections), 1, 100_000)?,
        rate: within(&key("rate"), raw.rate.unwrap_or(default.rate), 0.0, 10_000_000.0)?,
        pause,
        bytes,
        streams: within(&key("streams"), raw.streams.unwrap_or(default.streams), 1, 1_000)?,
        messages: within(
            &key("messages"),
            raw.messages.unwrap_or(default.messages),
            u32::from(default.messages > 0),
            1_000_000,
        )?,
        lasts: duration(&key("lasts"), raw.lasts.as_ref(), default.lasts)?,
        over,
    };
    if raw.streams.is_some() && one.carrier() != Carrier::Http2 {
        return Err(wrong(
            key("streams"),
            one.streams,
            "means nothing on HTTP/1: give over = \"http2\", or more connections",
        ));
    }
    if kind == Kind::Idle && one.pause.1 < Duration::from_millis(1) {
        return Err(wrong(
            key("pause"),
            "[\"0s\", \"0s\"]",
            "idle connections rest a while, such as [\"1s\", \"4s\"]",
        ));
    }
    Ok(one)
}

fn disturb(raw: &raw::Disturb) -> Result<Disturb, Problem> {
    let by = match (&raw.control, &raw.signal, &raw.pid_file, &raw.command) {
        (path, None, None, None) => Way::Control(path.clone()),
        (None, Some(signal), pid_file, None) => {
            let signal = signal.trim_start_matches("SIG").to_owned();
            if Signal::from_str(&format!("SIG{signal}")).is_err() {
                return Err(wrong(
                    "disturb.signal",
                    format!("{signal:?}"),
                    "a signal's name, such as HUP or USR2",
                ));
            }
            Way::Signal { signal, pid_file: pid_file.clone() }
        }
        (None, None, None, Some(command)) => Way::Command(command.clone()),
        (None, None, Some(file), None) => {
            return Err(wrong("disturb.pid_file", file.display(), "needs signal, such as HUP"));
        }
        _ => return Err(wrong("disturb", "…", "one of control, command, or signal with pid_file")),
    };
    let kill = match raw.kill.as_deref() {
        None | Some("either") => Victim::Either,
        Some("new") => Victim::New,
        Some("old") => Victim::Old,
        Some(other) => return Err(wrong("disturb.kill", format!("{other:?}"), "one of new, old, either")),
    };
    let every = duration("disturb.every", raw.every.as_ref(), Duration::ZERO)?;
    Ok(Disturb {
        first: duration("disturb.first", raw.first.as_ref(), every)?,
        every,
        upgrades: raw.upgrades.unwrap_or(0),
        by,
        bad_every: raw.bad_every.unwrap_or(0),
        kill_every: raw.kill_every.unwrap_or(0),
        kill,
        change_every: raw.change_every.unwrap_or(0),
        settle: duration("disturb.settle", raw.settle.as_ref(), Duration::from_secs(2))?,
    })
}

/// What is to be done to the proxy must have its time: better to hear that now than at the end of the run.
fn due(scenario: &Scenario) -> Result<(), Problem> {
    let (plan, duration) = (&scenario.disturb, scenario.duration);
    if plan.every.is_zero() {
        return Ok(());
    }
    let due = plan.due(duration);
    let lasts = humantime::format_duration(duration);
    if due == 0 {
        let first = humantime::format_duration(plan.first);
        let allowed =
            format!("before the end of the load, which lasts {lasts}; or every = \"0s\" for no upgrade");
        return Err(wrong("disturb.first", format!("\"{first}\""), allowed));
    }
    if due < plan.upgrades {
        let allowed = format!("up to {due} in {lasts}; 0: as many as there is time for");
        return Err(wrong("disturb.upgrades", plan.upgrades, allowed));
    }
    for (key, every, turn) in [
        ("disturb.bad_every", plan.bad_every, Turn::Bad),
        ("disturb.kill_every", plan.kill_every, Turn::Kill),
        ("disturb.change_every", plan.change_every, Turn::Change),
    ] {
        // A day has fewer seconds than this.
        if every > 0 && !(1..=due.min(100_000)).any(|number| plan.turn(number) == turn) {
            let allowed = format!(
                "a number whose turn comes in {due}, which are due (a bad one goes before a kill, a kill before \
                 a change)"
            );
            return Err(wrong(key, every, allowed));
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by a panic")]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        Scenario::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn what_is_printed_is_read_again() {
        let scenario = Scenario::parse(DEFAULT).unwrap();
        let printed = scenario.to_toml();
        assert_eq!(Scenario::parse(&printed).unwrap(), scenario, "{printed}");
    }

    /// What an operator adds to the built-in scenario, each way and each disturber, survives the printing, too.
    #[test]
    fn disturbers_are_printed_with_their_ways() {
        let traffic = "[[traffic]]\nkind = \"http1\"";
        for way in [
            "control = \"/x\"",
            "signal = \"HUP\"",
            "signal = \"HUP\"\npid_file = \"/x\"",
            "command = \"a 'b'\"",
        ] {
            let text = format!("[disturb]\nfirst = \"1s\"\nevery = \"2s\"\nkill = \"old\"\n{way}\n{traffic}");
            let scenario = Scenario::parse(&text).unwrap();
            assert_eq!(scenario.disturb.first, Duration::from_secs(1));
            assert_eq!(Scenario::parse(&scenario.to_toml()).unwrap(), scenario, "{way}");
        }
        let without = Scenario::parse(&format!("[disturb]\nevery = \"2s\"\n{traffic}")).unwrap();
        assert_eq!(without.disturb.first, Duration::from_secs(2), "as long as from one to the next");
    }

    #[test]
    fn every_kind_is_in_the_built_in_scenario() {
        let scenario = Scenario::parse(DEFAULT).unwrap();
        for kind in Kind::ALL {
            assert!(scenario.traffic.iter().any(|one| one.kind == kind), "{}", kind.name());
        }
    }

    #[test]
    fn problems_name_the_key_and_what_is_allowed() {
        assert_eq!(problem("seed = 1"), "traffic = []: at least one [[traffic]] with a kind");
        assert!(
            problem("[[traffic]]\nkind = \"http3\"")
                .starts_with("traffic[0].kind = \"http3\": one of http1, ")
        );
        assert!(
            problem("[[traffic]]\nkind = \"http1\"\nstreams = 2")
                .contains("traffic[0].streams = …: means nothing for http1")
        );
        assert!(problem("[[traffic]]\nkind = \"http1\"\nspeed = 2").contains("unknown field `speed`"));
        assert!(
            problem("duration = \"5\"\n[[traffic]]\nkind = \"http1\"")
                .starts_with("duration = \"5\": a duration with")
        );
        assert!(
            problem("[disturb]\npid_file = \"x\"\n[[traffic]]\nkind = \"http1\"").contains("needs signal")
        );
        assert!(
            problem("[disturb]\nsignal = \"HOP\"\npid_file = \"x\"\n[[traffic]]\nkind = \"http1\"")
                .contains("a signal's name")
        );
        assert!(
            problem("[[traffic]]\nkind = \"idle\"\npause = [\"2s\", \"1s\"]")
                .contains("the shorter one first")
        );
    }

    #[test]
    fn what_has_no_time_or_no_turn_is_told_before_the_run() {
        let problem = |disturb: &str| problem(&format!("{disturb}\n[[traffic]]\nkind = \"http1\""));
        assert_eq!(
            problem("duration = \"5s\"\n[disturb]\nevery = \"5s\""),
            "disturb.first = \"5s\": before the end of the load, which lasts 5s; or every = \"0s\" for no upgrade"
        );
        assert_eq!(
            problem("duration = \"5s\"\n[disturb]\nfirst = \"1s\"\nevery = \"2s\"\nupgrades = 3"),
            "disturb.upgrades = 3: up to 2 in 5s; 0: as many as there is time for"
        );
        let turns = problem("[disturb]\nevery = \"1s\"\nbad_every = 2\nkill_every = 4");
        assert!(
            turns.starts_with("disturb.kill_every = 4: a number whose turn comes in 29, which are due"),
            "{turns}"
        );
        assert!(problem("[disturb]\nevery = \"9s\"\nbad_every = 9").starts_with("disturb.bad_every = 9"));
    }

    #[test]
    fn shares_divide_connections_and_rate() {
        let scenario = Scenario::by_shares("http1=3,http2=1,idle=4", 80, 1000.0).unwrap();
        let found: Vec<_> = scenario.traffic.iter().map(|one| (one.kind, one.users(), one.rate)).collect();
        assert_eq!(found[0], (Kind::Http1, 30, 750.0));
        assert_eq!(found[1].0, Kind::Http2);
        assert!((found[1].2 - 250.0).abs() < 1e-9);
        assert_eq!(found[2], (Kind::Idle, 40, 0.0));
        assert!(Scenario::by_shares("http1=0", 10, 1.0).is_err());
        assert!(Scenario::by_shares("http1,http1", 10, 1.0).is_err());
        assert!(Scenario::by_shares("ftp", 10, 1.0).is_err());
    }
}
