//! The command line: arguments in, one call, an exit code out.

mod answered;
mod help;
mod keys;
mod screen;
mod status;
mod stop;
mod time;
mod upgrade;
mod watch;

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use http::{Method, StatusCode};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app;
use crate::control::Until;
use crate::control::client::{self, Answer, ClientError};
use crate::control::search::Search;
use crate::restart::HeldSignals;
use crate::supervise::Mode;
use screen::Screen;

/// An edge HTTP reverse proxy whose every change is a zero-downtime upgrade.
#[derive(Debug, Parser)]
#[command(name = "exuvia", version, after_long_help = help::PROGRAM, max_term_width = 110)]
struct Cli {
    /// The configuration file [env: EXUVIA_CONFIG]; without one the defaults and the environment
    /// (EXUVIA__...) decide
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (what happens without a command, too)
    #[command(after_long_help = help::RUN)]
    Run {
        /// Whether a small process that stays is put before the one that serves, which upgrades replace
        #[arg(long, value_name = "WHEN", default_value = "auto")]
        supervise: Mode,
    },
    /// Check the configuration and do nothing else
    #[command(after_long_help = help::CHECK)]
    Check {
        /// Print the settings in effect as a configuration file
        #[arg(long)]
        print: bool,
    },
    /// Replace the running process with the program and the configuration on disk
    #[command(after_long_help = help::UPGRADE)]
    Upgrade {
        /// How far to wait
        #[arg(long, value_name = "PHASE", default_value = "committed")]
        until: Until,
        /// Print what happens as JSON, one document a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        control: Control,
    },
    /// Take an upgrade back that is not committed yet
    #[command(after_long_help = help::ROLLBACK)]
    Rollback {
        #[command(flatten)]
        control: Control,
    },
    /// Show who serves and who drains
    #[command(after_long_help = help::STATUS)]
    Status {
        /// Print the answer of the running process as it is, one JSON document
        #[arg(long)]
        json: bool,
        /// Go on showing it, with traffic and the last upgrades, over every upgrade; with --json one
        /// document a line
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        control: Control,
    },
    /// Stop the running process and wait until it is gone
    #[command(after_long_help = help::STOP)]
    Stop {
        /// Cut every connection at once
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        control: Control,
    },
    /// Print a script that completes commands and options in a shell
    #[command(after_long_help = help::COMPLETIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Whom to ask.
#[derive(Debug, Args)]
struct Control {
    /// The control socket of the running process; by default where its configuration puts it
    #[arg(long = "control", value_name = "SOCKET")]
    socket: Option<PathBuf>,
}

/// How a command ended, as its exit status says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done = 0,
    Failed = 1,
    Refused = 3,
    Unreachable = 4,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command that asks the running process did not do what it should: what to say, and how to exit.
#[derive(Debug, PartialEq, Eq)]
struct Trouble {
    exit: Exit,
    words: String,
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Trouble {
        let exit = match error {
            // Something was asked of it, and nobody knows what came of that.
            ClientError::Broken(_) => Exit::Failed,
            _ => Exit::Unreachable,
        };
        let words = match error.unreached() {
            Some(path) => format!("{error}\n{}", Search::beside(path)),
            None => error.to_string(),
        };
        Trouble { exit, words }
    }
}

impl Trouble {
    /// The running process answered, and said no to `what`.
    fn answered(what: &str, answer: &Answer) -> Trouble {
        let (word, exit) = match answer.status {
            StatusCode::CONFLICT => ("refused", Exit::Refused),
            StatusCode::FORBIDDEN => ("denied", Exit::Unreachable),
            StatusCode::SERVICE_UNAVAILABLE => ("not possible", Exit::Unreachable),
            _ => ("failed", Exit::Failed),
        };
        Trouble { exit, words: format!("{what} {word}: {}", answer.error()) }
    }
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    // Before anything else, or a SIGHUP would end a process that is about to serve.
    let held = HeldSignals::hold();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let error = advised(error);
            // Help, or what is wrong; nobody may be there to read it.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let Cli { config, command } = cli;
    // Not clap's own way, for which a variable that is set to nothing is a mistake.
    let config =
        config.or_else(|| env::var_os("EXUVIA_CONFIG").filter(|it| !it.is_empty()).map(PathBuf::from));
    let command = command.unwrap_or(Command::Run { supervise: Mode::default() });
    if !matches!(command, Command::Run { .. }) {
        held.release();
    }
    match command {
        Command::Run { supervise } => app::run(config, supervise),
        Command::Check { print } => app::check(config.as_deref(), print),
        Command::Completions { shell } => completions(shell),
        Command::Upgrade { until, json, control } => {
            ask(control, config, async |socket, screen| upgrade::run(socket, until, json, screen).await)
        }
        Command::Rollback { control } => ask(control, config, rollback),
        Command::Status { json, watch: true, control } => {
            ask(control, config, async |socket, screen| watch::run(socket, json, screen).await)
        }
        Command::Status { json, watch: false, control } => {
            ask(control, config, async |socket, screen| status::run(socket, json, screen).await)
        }
        Command::Stop { now, control } => {
            ask(control, config, async |socket, screen| stop::run(socket, now, screen).await)
        }
    }
}

/// A mistake in the command line, with what others call `reload` told to be an upgrade here.
fn advised(mut error: clap::Error) -> clap::Error {
    let invalid = error.get(ContextKind::InvalidSubcommand);
    if matches!(invalid, Some(ContextValue::String(word)) if matches!(word.as_str(), "reload" | "restart")) {
        let meant = "every change, also one of the configuration alone, is an upgrade: exuvia upgrade";
        error.remove(ContextKind::SuggestedSubcommand);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![meant.into()]));
    }
    error
}

/// Runs a command that speaks with the running process.
fn ask(
    control: Control,
    config: Option<PathBuf>,
    command: impl AsyncFnOnce(&Path, &mut Screen) -> Result<Exit, Trouble>,
) -> ExitCode {
    let mut screen = Screen::new();
    let exit = control_socket(control, config).and_then(|socket| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let no_runtime =
            |error| Trouble { exit: Exit::Failed, words: format!("cannot make a tokio runtime: {error}") };
        runtime.map_err(no_runtime)?.block_on(command(&socket, &mut screen))
    });
    match exit {
        Ok(exit) => exit.into(),
        Err(Trouble { exit, words }) => {
            screen.error(&format!("error: {words}"));
            exit.into()
        }
    }
}

/// Where the running process listens: as named, as its configuration says, or where the environment suggests.
fn control_socket(control: Control, config: Option<PathBuf>) -> Result<PathBuf, Trouble> {
    if let Some(socket) = control.socket {
        return Ok(socket);
    }
    match app::control_socket(config.as_deref()) {
        Ok(socket) => Ok(socket),
        Err(error) => Err(Trouble {
            exit: Exit::Unreachable,
            words: format!(
                "cannot tell where the control socket is, since the configuration has mistakes; \
                 mend them or name the socket with --control\n{}",
                indented(&error.to_string())
            ),
        }),
    }
}

/// Ctrl-C, while something is waited for.
struct Interrupts(Option<Signal>);

impl Interrupts {
    /// From now on an interrupt does not end the process.
    fn new() -> Self {
        // Without it Ctrl-C ends the process, which is all but the same.
        Interrupts(signal(SignalKind::interrupt()).ok())
    }

    async fn next(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}

async fn rollback(socket: &Path, screen: &mut Screen) -> Result<Exit, Trouble> {
    let answer = client::request(socket, Method::POST, "/v1/rollback").await?;
    if answer.status != StatusCode::OK {
        return Err(Trouble::answered("rollback", &answer));
    }
    screen.line("rolled back: the old process serves");
    Ok(Exit::Done)
}

fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "exuvia", &mut script);
    match io::stdout().write_all(&script) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Screen::new().error(&format!("error: cannot write the script: {error}"));
            Exit::Failed.into()
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Each line of a text, set off from what stands above it.
fn indented(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn parse(words: &str) -> Cli {
        Cli::try_parse_from(words.split(' ')).unwrap()
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_means_run() {
        assert!(parse("exuvia").command.is_none());
        let cli = parse("exuvia -c exuvia.toml");
        assert!(cli.command.is_none());
        assert_eq!(cli.config, Some("exuvia.toml".into()));
    }

    #[test]
    fn the_configuration_can_stand_on_either_side() {
        for words in ["exuvia -c x.toml check", "exuvia check -c x.toml", "exuvia check --config=x.toml"] {
            assert_eq!(parse(words).config, Some("x.toml".into()), "{words}");
        }
    }

    #[test]
    fn an_upgrade_waits_for_the_verdict_unless_told_otherwise() {
        let until = |words| match parse(words).command {
            Some(Command::Upgrade { until, .. }) => until,
            other => panic!("{other:?}"),
        };
        assert_eq!(until("exuvia upgrade"), Until::Committed);
        assert_eq!(until("exuvia upgrade --until ready"), Until::Ready);
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error() {
        for words in [
            "exuvia start",
            "exuvia upgrade --until never",
            "exuvia run --control x",
            "exuvia status now",
            "exuvia completions",
        ] {
            let error = Cli::try_parse_from(words.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{words}");
        }
    }

    #[test]
    fn what_others_call_a_reload_is_an_upgrade() {
        let error = advised(Cli::try_parse_from(["exuvia", "reload"]).unwrap_err());
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("exuvia upgrade"), "{error}");
    }

    /// Lines that are set in columns must not be broken on a terminal of the usual width.
    #[test]
    fn the_help_fits() {
        let program = Cli::command();
        for command in program.get_subcommands().chain([&program]) {
            let name = command.get_name();
            let text = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(text.contains("Exit status:") || name == "completions", "{name}: {text}");
            for line in text.lines().filter(|line| line.starts_with("  ")) {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
        }
    }

    #[test]
    fn a_named_socket_needs_no_configuration() {
        let control = Control { socket: Some("/x/control.sock".into()) };
        let found = control_socket(control, Some("/nonexistent.toml".into()));
        assert_eq!(found, Ok("/x/control.sock".into()));
        let trouble = control_socket(Control { socket: None }, Some("/nonexistent.toml".into())).unwrap_err();
        assert_eq!(trouble.exit, Exit::Unreachable);
        assert!(trouble.words.contains("--control"), "{trouble:?}");
        assert!(trouble.words.contains("    /nonexistent.toml"), "{trouble:?}");
    }

    #[test]
    fn the_socket_of_the_configuration_is_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[control]\nsocket = '/x/y.sock'\n").unwrap();
        let found = control_socket(Control { socket: None }, Some(file.path().into()));
        assert_eq!(found, Ok("/x/y.sock".into()));
    }

    #[test]
    fn each_refusal_has_its_exit_status() {
        let trouble = |status| {
            let body = Bytes::from_static(b"{\"error\":\"busy\"}");
            Trouble::answered("upgrade", &Answer { status, body })
        };
        let refused = Trouble { exit: Exit::Refused, words: "upgrade refused: busy".into() };
        assert_eq!(trouble(StatusCode::CONFLICT), refused);
        assert_eq!(trouble(StatusCode::FORBIDDEN).exit, Exit::Unreachable);
        assert_eq!(trouble(StatusCode::SERVICE_UNAVAILABLE).exit, Exit::Unreachable);
        assert_eq!(trouble(StatusCode::INTERNAL_SERVER_ERROR).exit, Exit::Failed);
    }
}
