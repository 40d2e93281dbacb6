//! From the options to the scenario: a file, shares or the built-in one, and what is given beside it.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use loadtest::scenario::{DEFAULT, Scenario, Way};
use toml::{Table, Value};

/// What load is applied, and what is done to the proxy meanwhile.
#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub(super) struct Load {
    /// A scenario file; `exuvia-loadtest scenario` prints one to begin with
    #[arg(long, short, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Kinds of traffic and their shares of --connections and --rate, such as http1=3,http2=1,websocket
    #[arg(long, value_name = "KIND=SHARE,...", conflicts_with = "scenario")]
    shares: Option<String>,
    /// Connections, all together
    #[arg(long, value_name = "N", default_value_t = 200, requires = "shares",
        value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Exchanges a second, all together, each begun at its time whether or not those before have ended (open
    /// loop); 0: each when the one before has ended (closed loop)
    #[arg(long, value_name = "N", default_value_t = 2000.0, requires = "shares", value_parser = rate)]
    rate: f64,
    /// How long load is applied, such as 30s or 1h
    #[arg(long, short, value_name = "TIME")]
    duration: Option<String>,
    /// How long an exchange may take
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    /// From which everything random is drawn: the same seed, the same plan
    #[arg(long, value_name = "N")]
    seed: Option<i64>,
    /// Threads that generate load
    #[arg(long, value_name = "N")]
    threads: Option<i64>,
    #[command(flatten)]
    disturb: Disturb,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Upgrades")]
struct Disturb {
    /// The time between two upgrades; 0s: none
    #[arg(long, value_name = "TIME")]
    upgrade_every: Option<String>,
    /// How many at most; 0: as long as there is load
    #[arg(long, value_name = "N")]
    upgrades: Option<i64>,
    /// Ask for them at this control socket of an exuvia
    #[arg(long, value_name = "SOCKET", group = "way")]
    control: Option<PathBuf>,
    /// Ask for them by this signal, HUP or USR2
    #[arg(long, value_name = "SIGNAL", group = "way")]
    upgrade_signal: Option<String>,
    /// The file with the id of the process that gets the signal
    #[arg(long, value_name = "FILE", requires = "upgrade_signal")]
    pid_file: Option<PathBuf>,
    /// Ask for them by this command, such as 'systemctl reload exuvia'
    #[arg(long, value_name = "COMMAND", group = "way")]
    upgrade_command: Option<String>,
    /// Every how many upgrades one is to a program that cannot serve
    #[arg(long, value_name = "N")]
    bad_every: Option<i64>,
    /// Every how many upgrades a process is killed with SIGKILL in the middle of it
    #[arg(long, value_name = "N")]
    kill_every: Option<i64>,
    /// Which: new, old or either
    #[arg(long, value_name = "WHICH")]
    kill: Option<String>,
    /// Every how many upgrades one has another configuration: listeners, workers
    #[arg(long, value_name = "N")]
    change_every: Option<i64>,
}

impl Load {
    /// The scenario.
    ///
    /// # Errors
    ///
    /// What is wrong, with the file's or the option's name.
    pub(super) fn scenario(&self) -> Result<Scenario, String> {
        self.scenario_or(None)
    }

    /// The same; where nobody names a file, a duration and a time between upgrades, it has these.
    pub(super) fn scenario_or(&self, times: Option<[&str; 2]>) -> Result<Scenario, String> {
        let (name, base) = match (&self.scenario, &self.shares) {
            (Some(file), _) => {
                let text = fs::read_to_string(file);
                let text = text.map_err(|error| format!("cannot read {}: {error}", file.display()))?;
                let parsed =
                    Scenario::parse(&text).map_err(|error| format!("{}: {error}", file.display()))?;
                (file.display().to_string(), parsed)
            }
            (None, Some(shares)) => {
                let parsed = Scenario::by_shares(shares, self.connections as usize, self.rate);
                ("the options".to_owned(), parsed.map_err(|error| error.to_string())?)
            }
            (None, None) => {
                ("the options".to_owned(), Scenario::parse(DEFAULT).map_err(|error| error.to_string())?)
            }
        };
        // What a file says is checked as a file, so is what the options change.
        let mut table: Table = base.to_toml().parse().map_err(|error| format!("{name}: {error}"))?;
        self.apply(&mut table, times.filter(|_| self.scenario.is_none()));
        Scenario::parse(&table.to_string()).map_err(|error| format!("{name}: {error}"))
    }

    fn apply(&self, table: &mut Table, times: Option<[&str; 2]>) {
        let [duration, every] = times.map_or([None, None], |times| times.map(Some));
        let (duration, of) = (self.duration.as_deref().or(duration), &self.disturb);
        let every = of.upgrade_every.as_deref().or(every);
        set(table, "duration", duration);
        if duration.is_some() && self.scenario.is_none() {
            // As long as goes with the duration.
            table.remove("warm_up");
        }
        set(table, "timeout", self.timeout.as_deref());
        set(table, "seed", self.seed);
        set(table, "threads", self.threads);
        let Some(Value::Table(disturb)) = table.get_mut("disturb") else { return };
        // The built-in one has as many as its time allows, and the first after the same time as the others.
        let other = self.scenario.is_none() && (duration.is_some() || every.is_some());
        if other {
            set(disturb, "upgrades", Some(0));
        }
        set(disturb, "every", every);
        if other || every.is_some() {
            let every = disturb.get("every").cloned();
            set(disturb, "first", every);
        }
        set(disturb, "upgrades", of.upgrades);
        set(disturb, "bad_every", of.bad_every);
        set(disturb, "kill_every", of.kill_every);
        set(disturb, "kill", of.kill.as_deref());
        set(disturb, "change_every", of.change_every);
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let ways = [
            ("control", path(&of.control)),
            ("signal", of.upgrade_signal.clone()),
            ("command", of.upgrade_command.clone()),
        ];
        if ways.iter().any(|(_, way)| way.is_some()) {
            // There is one way.
            for key in ["control", "signal", "pid_file", "command"] {
                disturb.remove(key);
            }
            ways.into_iter().for_each(|(key, way)| set(disturb, key, way));
            set(disturb, "pid_file", path(&of.pid_file));
        }
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate >= 0.0);
    rate.ok_or_else(|| "a number of exchanges a second, 0 or above".into())
}

fn set<V: Into<Value>>(table: &mut Table, key: &str, value: Option<V>) {
    if let Some(value) = value {
        table.insert(key.to_owned(), value.into());
    }
}

/// Who is upgraded must be who is under load: the exuvia that is started here.
pub(super) fn for_ours(scenario: &Scenario) -> Result<(), String> {
    let plan = &scenario.disturb;
    if plan.every.is_zero() {
        return Ok(());
    }
    match plan.by {
        Way::Control(None) => Ok(()),
        Way::Signal { pid_file: None, .. } if plan.kill_every > 0 || plan.bad_every > 0 => {
            Err("only the control socket tells when to kill, and whether a bad upgrade was tried; leave out \
                 --upgrade-signal, or --kill-every and --bad-every"
                .into())
        }
        Way::Signal { pid_file: None, .. } => Ok(()),
        _ => Err("the exuvia that is started here is the one that is upgraded: leave out --control, --pid-file and \
                  --upgrade-command, or name the addresses of another proxy with --plain and --tls"
            .into()),
    }
}

/// What cannot be done to a proxy that was not started here.
pub(super) fn for_others(scenario: &Scenario) -> Result<(), String> {
    let plan = &scenario.disturb;
    if plan.every.is_zero() {
        return Ok(());
    }
    if plan.bad_every > 0 || plan.kill_every > 0 || plan.change_every > 0 {
        return Err(
            "bad upgrades, kills and changes are only for the exuvia that is started here; leave out \
                    --plain and --tls, or --bad-every, --kill-every and --change-every"
                .into(),
        );
    }
    if matches!(plan.by, Way::Control(None) | Way::Signal { pid_file: None, .. }) {
        return Err("nothing says how this proxy is upgraded; give --control SOCKET, --upgrade-signal SIGNAL \
                    with --pid-file FILE, or --upgrade-command COMMAND; or --upgrade-every 0s for load without \
                    upgrades"
            .into());
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by a panic")]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        load: Load,
    }

    fn scenario(options: &str) -> Result<Scenario, String> {
        let words = std::iter::once("x").chain(options.split_whitespace());
        Options::try_parse_from(words).map_err(|error| error.to_string())?.load.scenario()
    }

    #[test]
    fn without_options_it_is_the_built_in_one() {
        assert_eq!(scenario("").unwrap(), Scenario::parse(DEFAULT).unwrap());
    }

    #[test]
    fn an_option_takes_the_place_of_what_the_scenario_says() {
        let shorter = scenario("--duration 9s --seed 7 --bad-every 3").unwrap();
        assert_eq!((shorter.duration, shorter.seed), (Duration::from_secs(9), 7));
        assert_eq!((shorter.disturb.upgrades, shorter.disturb.bad_every), (0, 3));
        let fewer = scenario("--duration 5s --upgrades 1").unwrap();
        assert_eq!(fewer.disturb.upgrades, 1);
        let by_signal = scenario("--upgrade-signal HUP --pid-file /x").unwrap();
        let way = Way::Signal { signal: "HUP".into(), pid_file: Some("/x".into()) };
        assert_eq!(by_signal.disturb.by, way);
        let shares = scenario("--shares http1=3,grpc=1 --connections 16 --rate 100").unwrap();
        assert_eq!(shares.traffic.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (options, said) in [
            ("--duration soon", "duration = \"soon\""),
            ("--shares http9", "\"http9\""),
            ("--kill all", "disturb.kill = \"all\""),
            ("--scenario /nonexistent.toml", "cannot read /nonexistent.toml"),
            ("--control /x --upgrade-signal HUP", "cannot be used with"),
            ("--pid-file /x", "--upgrade-signal"),
            ("--rate 5", "--shares"),
            ("--threads 0", "threads = 0: from 1 to 64"),
        ] {
            let error = scenario(options).unwrap_err();
            assert!(error.contains(said), "{options}: {error}");
        }
    }

    #[test]
    fn a_strange_proxy_is_not_killed() {
        for options in ["", "--kill-every 2", "--upgrade-signal HUP", "--upgrade-command x --bad-every 1"] {
            assert!(for_others(&scenario(options).unwrap()).is_err(), "{options}");
        }
        for options in ["--upgrade-every 0s --kill-every 2", "--upgrade-command x", "--control /x"] {
            assert_eq!(for_others(&scenario(options).unwrap()), Ok(()), "{options}");
        }
    }
}
