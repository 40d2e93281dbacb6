//! `exuvia-loadtest compare`: the same scenario for several proxies, in turn.

use std::fs;
use std::io::{self, Write};
use std::str::FromStr;

use clap::Args;
use loadtest::compare::{Comparison, Contender, Round, SCHEMA, turns};
use loadtest::scenario::{Scenario, Way};
use loadtest::stage::Choice;
use loadtest::stage::nginx::By;
use loadtest::trial::{self, Ours};
use loadtest::{host, stage, table};

use super::load::Load;
use super::output::{Format, Output, cannot, document, print, write};
use super::screen::Screen;
use super::{Exit, Own, block_on, interruptions, shown};

/// How long a run is, and how long from upgrade to upgrade, if nobody says: there are many runs.
const TIMES: [&str; 2] = ["16s", "4s"];

/// A comparison.
#[derive(Debug, Args)]
pub(super) struct Compare {
    /// Whom to compare with: nginx-reload (HUP), nginx-binary (USR2, QUIT), nginx (both), haproxy
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "nginx,haproxy")]
    peers: Vec<Peer>,
    /// How many rounds; in each, each proxy has its turn
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    own: Own,
    #[command(flatten)]
    output: Output,
}

/// A name for one or more choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Nginx,
    NginxReload,
    NginxBinary,
    Haproxy,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(name: &str) -> Result<Peer, String> {
        Ok(match name {
            "nginx" => Peer::Nginx,
            "nginx-reload" => Peer::NginxReload,
            "nginx-binary" => Peer::NginxBinary,
            "haproxy" => Peer::Haproxy,
            _ => return Err("one of nginx, nginx-reload, nginx-binary, haproxy".into()),
        })
    }
}

impl Peer {
    fn choices(self) -> &'static [Choice] {
        match self {
            Peer::Nginx => &[Choice::Nginx(By::Reload), Choice::Nginx(By::Binary)],
            Peer::NginxReload => &[Choice::Nginx(By::Reload)],
            Peer::NginxBinary => &[Choice::Nginx(By::Binary)],
            Peer::Haproxy => &[Choice::Haproxy],
        }
    }
}

impl Compare {
    /// Runs it.
    pub(super) fn run(&self) -> Result<Exit, String> {
        let scenario = self.scenario()?;
        host::allow_connections(&scenario)?;
        let mut choices = vec![self.own.choice()?];
        for choice in self.peers.iter().flat_map(|peer| peer.choices()) {
            if !choices.contains(choice) {
                choices.push(choice.clone());
            }
        }
        self.output.prepare()?;
        let machine = format!("{}, {} × {}", host::kernel(), host::cpus(), host::cpu());
        let cpu = host::leave_a_cpu();
        let named = |choice: &Choice| Contender { name: choice.to_string(), ..Contender::default() };
        let mut comparison = Comparison {
            schema: SCHEMA,
            machine,
            proxies: choices.iter().map(named).collect(),
            interrupted: false,
            scenario,
        };
        block_on(self.rounds(&choices, cpu, &mut comparison))??;
        self.give(&comparison)
    }

    /// The scenario: shorter than that of one run, because there are many.
    fn scenario(&self) -> Result<Scenario, String> {
        let scenario = self.load.scenario_or(Some(TIMES))?;
        let plan = &scenario.disturb;
        if plan.bad_every > 0 || plan.kill_every > 0 || plan.change_every > 0 {
            return Err(
                "bad upgrades, kills and changes are not the same thing for other proxies; leave out \
                        --bad-every, --kill-every and --change-every"
                    .into(),
            );
        }
        if plan.by != Way::Control(None) {
            return Err("each proxy is upgraded by its own way; leave out --control, --upgrade-signal and \
                        --upgrade-command"
                .into());
        }
        Ok(scenario)
    }

    async fn rounds(
        &self,
        choices: &[Choice],
        cpu: Option<usize>,
        comparison: &mut Comparison,
    ) -> Result<(), String> {
        let interrupted = interruptions()?;
        for round in 0..usize::from(self.rounds) {
            for at in turns(choices.len(), round) {
                let contender = &mut comparison.proxies[at];
                if contender.missing.is_some() {
                    continue;
                }
                let ours = Ours { cpu, ..self.own.ours(choices[at].clone(), 1) };
                let title = format!("round {}/{}, {}: ", round + 1, self.rounds, contender.name);
                let screen = Screen::new(comparison.scenario.duration, self.output.quiet).with_title(title);
                let done = shown(screen, interrupted.clone(), async |witnessed| {
                    trial::ours(&comparison.scenario, &ours, witnessed).await
                })
                .await;
                match done {
                    Ok(results) => {
                        contender.version.clone_from(&results.surroundings.proxy);
                        contender.rounds.push(Round::of(&results));
                        let folder = self.output.folder().join(format!("{}-{}", contender.name, round + 1));
                        // The figures are in the comparison, whatever becomes of the files.
                        if let Err(error) =
                            document(&results).and_then(|json| write(&folder, &results, &json))
                        {
                            writeln!(io::stderr(), "{error}").ok();
                        }
                    }
                    Err(trial::Error::Interrupted) => {}
                    // One that is missing or broken does not keep the others from being compared.
                    Err(error) => {
                        contender.missing = Some(error.to_string());
                        if !matches!(error, trial::Error::Stage(stage::Error::NotInstalled { .. })) {
                            writeln!(io::stderr(), "{}: {error}", contender.name).ok();
                        }
                    }
                }
                if *interrupted.borrow() > 0 {
                    comparison.interrupted = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Writes the document, prints the tables, and says how it ended: by what ours did.
    fn give(&self, comparison: &Comparison) -> Result<Exit, String> {
        let (json, path) = (document(comparison)?, self.output.folder().join("compare.json"));
        let printed = match self.output.format() {
            Format::Json => print(&json),
            Format::Markdown => print(&table::compared_markdown(comparison)),
            Format::Table => {
                let folder = self.output.folder().display();
                print(&format!("{}\nresults: {folder}\n", table::compared(comparison)))
            }
        };
        let written = fs::write(&path, &json).map_err(|error| cannot("write", &path, &error));
        written.and(printed)?;
        let ours = &comparison.proxies[0];
        Ok(if comparison.interrupted {
            Exit::Interrupted
        } else if ours.missing.is_none() && ours.rounds.iter().all(|round| round.passed) {
            Exit::Passed
        } else {
            Exit::Failed
        })
    }
}
