//! The command line: options in, one call, a table and files out.

mod compare;
mod help;
mod load;
mod output;
mod screen;

use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use loadtest::generator::Aim;
use loadtest::host;
use loadtest::scenario::Scenario;
use loadtest::stage::Choice;
use loadtest::stage::exuvia::find;
use loadtest::traffic::Targets;
use loadtest::trial::{self, Ours, Witnessed};
use loadtest::upstream::{Identity, Upstream};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::LocalSet;

use compare::Compare;
use load::{Load, for_others, for_ours};
use output::{Output, print};
use screen::Screen;

/// A strict witness of what an upgrade does to traffic: load without a single retry, upgrades meanwhile, a verdict.
#[derive(Debug, Parser)]
#[command(
    name = "exuvia-loadtest",
    version,
    after_long_help = help::PROGRAM,
    max_term_width = 110,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the scenario that these options make, as a file
    Scenario {
        #[command(flatten)]
        load: Box<Load>,
    },
    /// Put several proxies under the same load, in turn, and show them side by side
    Compare(Box<Compare>),
    /// Serve what the load asks for, behind a proxy that runs already
    Upstream {
        /// Where it speaks HTTP/1.1, and HTTP/2 with prior knowledge
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000")]
        plain: SocketAddr,
        /// Where it speaks both under TLS
        #[arg(long, value_name = "ADDRESS", requires_all = ["chain", "key"])]
        tls: Option<SocketAddr>,
        /// Its certificate and those that prove it, PEM
        #[arg(long, value_name = "FILE", requires = "tls")]
        chain: Option<PathBuf>,
        /// The certificate's key, PEM
        #[arg(long, value_name = "FILE", requires = "tls")]
        key: Option<PathBuf>,
    },
}

/// A run.
#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    own: Own,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "A proxy that runs already")]
#[command(group = clap::ArgGroup::new("at").multiple(true).conflicts_with_all(["exuvia", "workers", "probation", "drain_timeout", "idle_grace"]))]
struct Target {
    /// Its address without TLS, host:port
    #[arg(long, value_name = "ADDRESS", value_parser = address, group = "at")]
    plain: Option<SocketAddr>,
    /// Its address with TLS, host:port
    #[arg(long, value_name = "ADDRESS", value_parser = address, group = "at")]
    tls: Option<SocketAddr>,
    /// The name that requests carry and its certificate must have
    #[arg(long, value_name = "HOST", default_value = "localhost", requires = "at")]
    name: String,
    /// Who must have issued its certificate, PEM; by default those whom this system believes
    #[arg(long, value_name = "FILE", requires = "tls")]
    ca: Option<PathBuf>,
}

/// The exuvia that is started here.
#[derive(Debug, Args)]
#[command(next_help_heading = "The exuvia that is started otherwise")]
struct Own {
    /// Its program; by default the one of this project, built now, or the one beside this program
    #[arg(long, value_name = "PATH")]
    exuvia: Option<PathBuf>,
    /// Its workers [default: 2; in a comparison 1, of the others as well]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// How long the old process watches the new one
    #[arg(long, value_name = "TIME", default_value = "500ms")]
    probation: humantime::Duration,
    /// How long the old process may take to finish
    #[arg(long, value_name = "TIME", default_value = "10s")]
    drain_timeout: humantime::Duration,
    /// How long the old process keeps idle connections open
    #[arg(long, value_name = "TIME", default_value = "5s")]
    idle_grace: humantime::Duration,
}

/// How many workers exuvia has if nobody says.
const WORKERS: u16 = 2;

/// How it ended, as the exit status says it.
#[derive(Clone, Copy, Debug)]
enum Exit {
    Passed = 0,
    Failed = 1,
    Useless = 2,
    Interrupted = 130,
}

/// Parses the arguments, does what they say.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => run(&cli.run),
        Some(Command::Scenario { load }) => {
            load.scenario().and_then(|scenario| print(&scenario.to_toml())).map(|()| Exit::Passed)
        }
        Some(Command::Compare(compare)) => compare.run(),
        Some(Command::Upstream { plain, tls, chain, key }) => upstream(plain, tls, chain, key),
    };
    ExitCode::from(done.unwrap_or_else(|error| {
        // Whoever closed standard error does not want to know.
        writeln!(io::stderr(), "exuvia-loadtest: {error}").ok();
        Exit::Useless
    }) as u8)
}

/// `host:port`, the first address that the name has.
fn address(text: &str) -> Result<SocketAddr, String> {
    let mut addresses = text.to_socket_addrs().map_err(|error| format!("{error}; give host:port"))?;
    addresses.next().ok_or_else(|| format!("{text} has no address"))
}

fn run(options: &Run) -> Result<Exit, String> {
    let scenario = options.load.scenario()?;
    host::allow_connections(&scenario)?;
    let target = &options.target;
    let results = if target.plain.is_some() || target.tls.is_some() {
        for_others(&scenario)?;
        options.output.prepare()?;
        let targets = Targets { plain: target.plain, tls: target.tls, name: target.name.clone() };
        let aim = Aim { targets, roots: Arc::new(roots(target.ca.as_deref())?) };
        witnessed(&scenario, options.output.quiet, async |witnessed| {
            trial::theirs(&scenario, &aim, witnessed).await
        })
    } else {
        for_ours(&scenario)?;
        options.output.prepare()?;
        let ours = options.own.ours(options.own.choice()?, WORKERS);
        witnessed(&scenario, options.output.quiet, async |witnessed| {
            trial::ours(&scenario, &ours, witnessed).await
        })
    };
    match results? {
        Err(trial::Error::Interrupted) => {
            writeln!(io::stderr(), "{}", trial::Error::Interrupted).ok();
            Ok(Exit::Interrupted)
        }
        Err(error) => Err(error.to_string()),
        Ok(results) => options.output.give(&results),
    }
}

impl Own {
    /// Its program.
    fn choice(&self) -> Result<Choice, String> {
        Ok(Choice::Exuvia(find(self.exuvia.as_deref()).map_err(|error| error.to_string())?))
    }

    /// A proxy with these settings, as far as it has them.
    fn ours(&self, choice: Choice, workers: u16) -> Ours {
        Ours {
            choice,
            cpu: None,
            workers: self.workers.unwrap_or(workers).into(),
            probation: self.probation.into(),
            drain_timeout: self.drain_timeout.into(),
            idle_grace: self.idle_grace.into(),
        }
    }
}

/// Does something that shows how it goes, and that a signal ends.
fn witnessed<T>(
    scenario: &Scenario,
    quiet: bool,
    job: impl AsyncFnOnce(Witnessed<'_>) -> T,
) -> Result<T, String> {
    block_on(async {
        let screen = Screen::new(scenario.duration, quiet);
        Ok(shown(screen, interruptions()?, job).await)
    })?
}

/// Does something that shows on a screen how it goes.
async fn shown<T>(
    screen: Screen,
    interrupted: watch::Receiver<u32>,
    job: impl AsyncFnOnce(Witnessed<'_>) -> T,
) -> T {
    let screen = RefCell::new(screen);
    let done = job(Witnessed {
        interrupted,
        step: &mut |step| screen.borrow_mut().step(step),
        tick: &mut |tick, now| screen.borrow_mut().tick(tick, now),
    })
    .await;
    screen.borrow().clear();
    done
}

fn block_on<T>(job: impl Future<Output = T>) -> Result<T, String> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("there is no runtime: {error}"))?;
    Ok(LocalSet::new().block_on(&runtime, job))
}

/// How many times somebody has asked for the end, by Ctrl-C or SIGTERM: at the first it is to come in good order, at
/// the second at once.
fn interruptions() -> Result<watch::Receiver<u32>, String> {
    let (say, heard) = watch::channel(0);
    let caught = |kind| signal(kind).map_err(|error| format!("no signal can be caught: {error}"));
    let (mut interrupt, mut terminate) = (caught(SignalKind::interrupt())?, caught(SignalKind::terminate())?);
    tokio::task::spawn_local(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            say.send_modify(|times| *times += 1);
        }
    });
    Ok(heard)
}

/// Who may have issued the proxy's certificate.
fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(file) = ca else {
        // One that cannot be read is missing, and what it has issued will not be believed.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    let problem = |cause: String| format!("--ca {}: {cause}", file.display());
    let text = fs::read(file).map_err(|error| problem(error.to_string()))?;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let added = certificate.map_err(|error| problem(error.to_string()));
        roots.add(added?).map_err(|error| problem(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(problem("there is no certificate in it".into()));
    }
    Ok(roots)
}

fn upstream(
    plain: SocketAddr,
    tls: Option<SocketAddr>,
    chain: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Exit, String> {
    let tls = match (tls, chain, key) {
        (Some(address), Some(chain), Some(key)) => Some((address, Identity { chain, key })),
        _ => None,
    };
    host::allow_descriptors()?;
    block_on(async {
        let mut interrupted = interruptions()?;
        let upstream = Upstream::bind(plain, tls).await.map_err(|error| error.to_string())?;
        let ready = upstream.ready().map_err(|error| format!("where does it listen? {error}"))?;
        let ready = serde_json::to_string(&ready).map_err(|error| error.to_string())?;
        print(&format!("{ready}\n"))?;
        tokio::select! {
            () = upstream.serve() => {}
            _ = interrupted.changed() => {}
        }
        Ok(Exit::Passed)
    })?
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_options_of_every_command_fit_together() {
        Cli::command().debug_assert();
    }
}
