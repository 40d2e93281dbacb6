//! One value: what may stand in a configuration, and the rules that say what is allowed.
//!
//! A rule is a function from a [`Leaf`] to what is wanted, or to the words for what would have been allowed.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use tracing_subscriber::EnvFilter;

use super::{LogFormat, UpstreamAddr};
use crate::restart::ListenAddr;

/// No duration is longer: a day is far above what any of them is good for, and far below any overflow.
pub(super) const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The least duration that is not zero; tokio's timers count in milliseconds.
const DURATION_MIN: Duration = Duration::from_millis(1);
/// The longest file name that the kernel takes, without its final NUL (path_resolution(7)), in bytes.
const PATH_MAX: usize = 4095;
/// The longest path of a Unix socket, without its final NUL (unix(7)), in bytes.
const SOCKET_PATH_MAX: usize = 107;
/// How much of a value an error repeats, in characters.
const SHOWN_MAX: usize = 80;

/// Whatever stands behind a key. Reading one never fails, so that no wrong type hides the next problem.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Leaf {
    Nothing,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Leaf>),
    Table,
}

impl<'de> Deserialize<'de> for Leaf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Leaf, D::Error> {
        deserializer.deserialize_any(LeafVisitor)
    }
}

struct LeafVisitor;

impl<'de> Visitor<'de> for LeafVisitor {
    type Value = Leaf;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Leaf, E> {
        Ok(Leaf::Nothing)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Leaf, E> {
        Ok(Leaf::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Leaf, E> {
        Ok(Leaf::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Leaf, E> {
        Ok(Leaf::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Leaf, E> {
        Ok(Leaf::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Leaf, E> {
        Ok(Leaf::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Leaf, E> {
        Ok(Leaf::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Leaf, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Leaf::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Leaf, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Leaf::Table)
    }
}

/// As an error repeats it: on one line, and shortened if it is long.
impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leaf::Nothing => write!(f, "nothing"),
            Leaf::Bool(value) => write!(f, "{value}"),
            Leaf::Integer(value) => write!(f, "{value}"),
            Leaf::Float(value) => write!(f, "{value:?}"),
            Leaf::Text(text) if text.chars().nth(SHOWN_MAX).is_some() => {
                let shown: String = text.chars().take(SHOWN_MAX).collect();
                write!(f, "{}... ({} bytes)", quoted(&shown), text.len())
            }
            Leaf::Text(text) => write!(f, "{}", quoted(text)),
            Leaf::List(items) if items.len() > 4 => write!(f, "[a list of {}]", items.len()),
            Leaf::List(items) => {
                let items: Vec<String> = items.iter().map(Leaf::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Leaf::Table => write!(f, "{{a table}}"),
        }
    }
}

/// The text as a basic string of TOML, which is on one line.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            _ if char.is_control() || is_deceptive(char) => {
                quoted.push_str(&format!("\\u{:04X}", u32::from(char)));
            }
            _ => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

/// Characters that make a terminal show something else than what is there: of no width, or turning the text.
fn is_deceptive(char: char) -> bool {
    matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// What a rule makes of a value.
pub(super) type Checked<T> = Result<T, String>;

/// A duration of at most a day, or none.
pub(super) fn duration_or_zero(leaf: &Leaf) -> Checked<Duration> {
    duration(
        leaf,
        Duration::ZERO,
        r#"expected a duration such as "5s", "250ms" or "1m 30s", from "0s" to "24h""#,
    )
}

/// A duration of at most a day.
pub(super) fn duration_above_zero(leaf: &Leaf) -> Checked<Duration> {
    duration(
        leaf,
        DURATION_MIN,
        r#"expected a duration such as "5s", "250ms" or "1m 30s", from "1ms" to "24h""#,
    )
}

fn duration(leaf: &Leaf, min: Duration, expected: &str) -> Checked<Duration> {
    let parsed = match leaf {
        // A bare number is asked back, not guessed: some programs count in seconds, some in milliseconds.
        Leaf::Integer(number) if *number >= 0 => {
            return Err(format!("{expected}; a number needs its unit, such as \"{number}s\""));
        }
        Leaf::Text(text) if !is_beyond_sums(text) => humantime::parse_duration(text).ok(),
        _ => None,
    };
    parsed.filter(|duration| (min..=DURATION_MAX).contains(duration)).ok_or_else(|| expected.to_owned())
}

/// Whether the text may be more than humantime 2.4 can add up: it panics when the sum leaves 64 bits of seconds,
/// as in `18446744073709551615s 1000ms`. Six numbers of ten digits, all of them years, are far below that.
fn is_beyond_sums(text: &str) -> bool {
    const TEXT_MAX: usize = 64;
    const DIGITS_MAX: usize = 10;
    text.len() > TEXT_MAX
        || text.split(|char: char| !char.is_ascii_digit()).any(|number| number.len() > DIGITS_MAX)
}

/// A whole number, also as text, as the environment has it.
fn whole_number(leaf: &Leaf) -> Option<i128> {
    match leaf {
        Leaf::Integer(number) => Some(*number),
        Leaf::Text(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
        _ => None,
    }
}

/// A whole number within `range`.
pub(super) fn number<T>(range: RangeInclusive<T>) -> impl Fn(&Leaf) -> Checked<T>
where
    T: TryFrom<i128> + PartialOrd + fmt::Display,
{
    move |leaf| {
        whole_number(leaf)
            .and_then(|number| T::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| format!("expected a whole number from {} to {}", range.start(), range.end()))
    }
}

/// How many workers: a number, or one for each of `cpus`.
pub(super) fn workers(cpus: usize) -> impl Fn(&Leaf) -> Checked<usize> {
    const WORKERS_MAX: usize = 1024;
    move |leaf| match leaf {
        Leaf::Text(text) if text == "auto" => Ok(cpus.clamp(1, WORKERS_MAX)),
        _ => number(1..=WORKERS_MAX)(leaf)
            .map_err(|expected| format!(r#"{expected}, or "auto" for one per CPU"#)),
    }
}

/// A size within `range`, in bytes. `expected` says so.
pub(super) fn size(range: RangeInclusive<usize>, expected: &str) -> impl Fn(&Leaf) -> Checked<usize> {
    const KIB: usize = 1024;
    let with_unit = |text: &str| {
        let (digits, unit) = match (text.strip_suffix("KiB"), text.strip_suffix("MiB")) {
            (Some(digits), _) => (digits, KIB),
            (_, Some(digits)) => (digits, KIB * KIB),
            _ => return None,
        };
        let number = whole_number(&Leaf::Text(digits.trim_end().to_owned()))?;
        usize::try_from(number).ok()?.checked_mul(unit)
    };
    move |leaf| {
        let bytes = match leaf {
            Leaf::Text(text) if !text.bytes().all(|byte| byte.is_ascii_digit()) => with_unit(text),
            _ => whole_number(leaf).and_then(|number| usize::try_from(number).ok()),
        };
        bytes
            .filter(|bytes| range.contains(bytes))
            .ok_or_else(|| format!("expected a size {expected}, or a number of bytes"))
    }
}

/// One of a few words.
pub(super) fn word<T: Copy>(words: &[(&str, T)]) -> impl Fn(&Leaf) -> Checked<T> {
    move |leaf| {
        let found = text(leaf).and_then(|text| words.iter().find(|(word, _)| *word == text));
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<String> = words.iter().map(|(word, _)| quoted(word)).collect();
            match words.split_last() {
                Some((last, rest)) if !rest.is_empty() => format!("expected {} or {last}", rest.join(", ")),
                _ => format!("expected {}", words.concat()),
            }
        })
    }
}

/// Yes or no; as text, too, as the environment has it.
pub(super) fn switch(leaf: &Leaf) -> Checked<bool> {
    match leaf {
        Leaf::Bool(value) => Ok(*value),
        Leaf::Text(text) if text == "true" => Ok(true),
        Leaf::Text(text) if text == "false" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// A network, or a single address.
pub(super) fn network(leaf: &Leaf) -> Checked<IpNet> {
    let parsed = text(leaf).and_then(|text| {
        let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        text.parse().ok().or_else(address)
    });
    // An address of IPv4 is compared as that, however a socket shows it: such a network would have nobody in it.
    let is_mapped =
        |network: &IpNet| matches!(network, IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some());
    match parsed {
        Some(network) if is_mapped(&network) => {
            Err("expected a network of IPv4 to be written as one, such as 10.0.0.0/8".to_owned())
        }
        Some(network) => Ok(network),
        None => Err("expected a network such as 10.0.0.0/8 or fd00::/8, or an address".to_owned()),
    }
}

/// The address of a name server, its port 53 if none is given.
pub(super) fn name_server(leaf: &Leaf) -> Checked<SocketAddr> {
    const PORT: u16 = 53;
    let parsed = text(leaf).and_then(|text| {
        let alone = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, PORT));
        text.parse::<SocketAddr>().ok().or_else(alone)
    });
    parsed
        .filter(|address| address.port() != 0)
        .ok_or_else(|| "expected an address such as 10.0.0.2, 10.0.0.2:53 or [fd00::2]:53".to_owned())
}

/// A name that a server proves: a host name or an address.
pub(super) fn server_name(leaf: &Leaf) -> Checked<String> {
    let is_name = |text: &&str| rustls::pki_types::ServerName::try_from(*text).is_ok();
    text(leaf)
        .filter(is_name)
        .map(str::to_owned)
        .ok_or_else(|| "expected a host name such as app.internal, or an IP address".to_owned())
}

/// The name of a table that an operator names.
pub(super) fn name(leaf: &Leaf) -> Checked<String> {
    text(leaf).map(str::to_owned).ok_or_else(|| "expected a name".to_owned())
}

/// A token of `Upgrade` that may be passed on.
pub(super) fn upgrade_token(leaf: &Leaf) -> Checked<String> {
    const TOKEN_MAX: usize = 64;
    let is_token = |text: &&str| {
        let allowed =
            |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"!#$%&'*+-.^_`|~/".contains(&c);
        (1..=TOKEN_MAX).contains(&text.len()) && text.bytes().all(allowed)
    };
    match text(leaf) {
        // RFC 9113, section 3.1: it is of the past, and behind a proxy a way around it.
        Some(token) if token.split('/').next() == Some("h2c") => {
            Err("expected a protocol that may pass; h2c would be spoken past this proxy".to_owned())
        }
        other => other
            .filter(is_token)
            .map(str::to_owned)
            .ok_or_else(|| "expected a protocol in lower case, such as websocket".to_owned()),
    }
}

/// A file's permission bits, in octal.
pub(super) fn mode(leaf: &Leaf) -> Checked<u32> {
    let parsed = match leaf {
        Leaf::Text(text)
            if (3..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            u32::from_str_radix(text, 8).ok()
        }
        _ => None,
    };
    parsed
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| r#"expected a mode in octal as text, such as "0666" or "0600""#.to_owned())
}

/// A path, which need not exist yet.
pub(super) fn path(leaf: &Leaf) -> Checked<PathBuf> {
    path_up_to(PATH_MAX, leaf)
}

/// A path for a Unix socket.
pub(super) fn socket_path(leaf: &Leaf) -> Checked<PathBuf> {
    path_up_to(SOCKET_PATH_MAX, leaf)
}

fn path_up_to(max: usize, leaf: &Leaf) -> Checked<PathBuf> {
    match leaf {
        Leaf::Text(text) if (1..=max).contains(&text.len()) && !text.contains(char::is_control) => {
            Ok(PathBuf::from(text))
        }
        _ => Err(format!("expected a path of 1 to {max} bytes without control characters")),
    }
}

/// Where to listen.
pub(super) fn listen_addr(leaf: &Leaf) -> Checked<ListenAddr> {
    let parsed =
        text(leaf).filter(|text| !text.contains(char::is_control)).and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| {
        "expected IP:PORT such as 127.0.0.1:8080 or [::1]:8080, or unix:/absolute/path up to 107 bytes"
            .to_owned()
    })
}

/// Where to listen, over TCP alone.
pub(super) fn tcp_addr(leaf: &Leaf) -> Checked<SocketAddr> {
    let parsed = text(leaf).and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| "expected IP:PORT such as 127.0.0.1:9090 or [::1]:9090".to_owned())
}

/// Where an upstream server is.
pub(super) fn upstream_addr(leaf: &Leaf) -> Checked<UpstreamAddr> {
    let text = text(leaf).filter(|text| !text.contains(char::is_control)).unwrap_or_default();
    text.parse().map_err(|err: super::ParseUpstreamAddrError| err.to_string())
}

/// What to log: a level, or a filter that tracing-subscriber takes.
pub(super) fn log_filter(leaf: &Leaf) -> Checked<String> {
    const FILTER_BYTES_MAX: usize = 1024;
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_allowed = |filter: &&str| {
        // A single word would be taken for a target, so that a mistyped level logged nothing.
        let is_word = filter.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        LEVELS.contains(filter)
            || (!is_word
                && filter.len() <= FILTER_BYTES_MAX
                && !filter.contains(char::is_control)
                && EnvFilter::builder().parse(filter).is_ok())
    };
    text(leaf).filter(is_allowed).map(str::to_owned).ok_or_else(|| {
        "expected off, error, warn, info, debug, trace, or a filter such as \"warn,exuvia::proxy=debug\""
            .to_owned()
    })
}

/// How to write a log line.
pub(super) fn log_format(leaf: &Leaf) -> Checked<LogFormat> {
    match text(leaf) {
        Some("text") => Ok(LogFormat::Text),
        Some("json") => Ok(LogFormat::Json),
        _ => Err(r#"expected "text" or "json""#.to_owned()),
    }
}

/// A list of at most `max` items, such as `example`.
pub(super) fn list(max: usize, example: &str) -> impl Fn(&Leaf) -> Checked<Vec<Leaf>> {
    move |leaf| match leaf {
        Leaf::List(items) if items.len() <= max => Ok(items.clone()),
        _ => Err(format!("expected a list of at most {max}, such as {example}")),
    }
}

fn text(leaf: &Leaf) -> Option<&str> {
    match leaf {
        Leaf::Text(text) => Some(text),
        _ => None,
    }
}
