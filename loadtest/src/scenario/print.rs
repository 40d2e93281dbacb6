//! A scenario as a file that can be read again, with only the fields that mean something for each kind.

use super::check::fields;
use super::{Carrier, Scenario, Traffic, Victim, Way};

impl Scenario {
    /// The scenario as TOML: [`Scenario::parse`] of it is the same.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        let time = |duration| format!("\"{}\"", humantime::format_duration(duration));
        line(format!("seed = {}", self.seed));
        line(format!("duration = {}", time(self.duration)));
        line(format!("warm_up = {}", time(self.warm_up)));
        line(format!("timeout = {}", time(self.timeout)));
        line(format!("threads = {}", self.threads));
        let disturb = &self.disturb;
        line("\n[disturb]".into());
        line(format!("first = {}", time(disturb.first)));
        line(format!("every = {}", time(disturb.every)));
        line(format!("upgrades = {}", disturb.upgrades));
        match &disturb.by {
            Way::Control(None) => {}
            Way::Control(Some(path)) => line(format!("control = {}", quoted(&path.display().to_string()))),
            Way::Signal { signal, pid_file } => {
                line(format!("signal = {}", quoted(signal)));
                if let Some(path) = pid_file {
                    line(format!("pid_file = {}", quoted(&path.display().to_string())));
                }
            }
            Way::Command(command) => line(format!("command = {}", quoted(command))),
        }
        line(format!("bad_every = {}", disturb.bad_every));
        line(format!("kill_every = {}", disturb.kill_every));
        let victim = match disturb.kill {
            Victim::New => "new",
            Victim::Old => "old",
            Victim::Either => "either",
        };
        line(format!("kill = \"{victim}\""));
        line(format!("change_every = {}", disturb.change_every));
        line(format!("settle = {}", time(disturb.settle)));
        for one in &self.traffic {
            line("\n[[traffic]]".into());
            line(format!("kind = \"{}\"", one.kind.name()));
            if one.name != one.kind.name() {
                line(format!("name = {}", quoted(&one.name)));
            }
            line(format!("connections = {}", one.connections));
            fields(one.kind).iter().filter_map(|field| value(one, field)).for_each(&mut line);
        }
        out
    }
}

fn value(one: &Traffic, field: &str) -> Option<String> {
    let time = |duration| format!("\"{}\"", humantime::format_duration(duration));
    Some(match field {
        "rate" => format!("rate = {:?}", one.rate),
        "pause" => format!("pause = [{}, {}]", time(one.pause.0), time(one.pause.1)),
        "bytes" => format!("bytes = [{}, {}]", one.bytes.0, one.bytes.1),
        "streams" if one.carrier() != Carrier::Http2 => return None,
        "streams" => format!("streams = {}", one.streams),
        "messages" => format!("messages = {}", one.messages),
        "lasts" => format!("lasts = {}", time(one.lasts)),
        _ => {
            let over = match one.over {
                Carrier::Http1 => "http1",
                Carrier::Http1Tls => "http1-tls",
                Carrier::Http2 => "http2",
            };
            format!("over = \"{over}\"")
        }
    })
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
