//! The longer parts of the help.
//!
//! What is set in columns fits 80 of them. Paragraphs are one line each here, for clap to break where the
//! terminal ends.

/// Below `exuvia --help`.
pub(super) const PROGRAM: &str = "\
Examples:
  exuvia check -c exuvia.toml   Is the configuration right?
  exuvia run -c exuvia.toml     Serve; `exuvia -c exuvia.toml` is the same
  exuvia upgrade                Replace the running process with the program
                                and the configuration on disk
  exuvia rollback               Back to the old process, while it still watches
  exuvia status                 Who serves, who drains
  exuvia stop                   Finish what was accepted, then end

Signals to the process that serves:
  SIGHUP, SIGUSR2  Upgrade; what comes of it is in the log
  SIGTERM, SIGINT  Stop; a second one cuts every connection
  SIGUSR1          Nothing: no log file is to be opened anew

The commands reach the process that serves through its control socket. That is where control.socket in the \
configuration puts it; otherwise /run/exuvia/control.sock for root, and for others \
$XDG_RUNTIME_DIR/exuvia/control.sock, or /tmp/exuvia-UID/control.sock where that variable is not set. It \
speaks HTTP:

  curl --unix-socket /run/exuvia/control.sock http://exuvia/v1/status

Exit status:
  0    done; for `upgrade`: the new process serves
  1    failed; for `upgrade`: failed or rolled back, the old process serves on
  2    the command line is wrong
  3    refused: it cannot be done now, such as an upgrade during another
  4    exuvia is not running or cannot be reached
  130  interrupted while waiting; what was asked for goes on";

/// Below `exuvia run --help`.
pub(super) const RUN: &str = "\
Signals:
  SIGHUP, SIGUSR2  Upgrade; what comes of it is in the log
  SIGTERM, SIGINT  Stop: finish what was accepted, within drain.timeout; a
                   second one cuts every connection

Examples:
  exuvia run -c /etc/exuvia/exuvia.toml
  EXUVIA__LOG__LEVEL=debug exuvia run   Each setting has a variable, too

Exit status:
  0  stopped as it was asked to, or another generation serves now
  1  it could not start or could not go on; why is on standard error";

/// Below `exuvia check --help`.
pub(super) const CHECK: &str = "\
Examples:
  exuvia check -c exuvia.toml
  exuvia check --print   The defaults and the environment, as a file

Exit status:
  0  the configuration is right
  1  it is not; every mistake is on standard error";

/// Below `exuvia upgrade --help`.
pub(super) const UPGRADE: &str = "\
The running process starts the program that is on disk now: restart.executable, or the file that it was \
started from itself. The new process reads the configuration, takes over the listening sockets and says that \
it is ready; from then on it accepts. The old process watches it for the time of restart.probation. If the \
new one dies meanwhile, or `exuvia rollback` says so, the old one accepts again. Otherwise it lets go, \
finishes what it had accepted, and ends.

Whatever goes wrong before it lets go, the old process serves on, and what went wrong is told here.

Examples:
  exuvia upgrade && echo done
  exuvia upgrade --until ready && { ./smoke-test || exuvia rollback; }
  exuvia upgrade --json   One JSON document a line, as it happens

Exit status:
  0    committed: the new process serves (with --until ready: it accepts)
  1    failed or rolled back: the old process serves on
  2    the command line is wrong
  3    refused: another upgrade is under way, or too many processes drain
  4    exuvia is not running or cannot be reached
  130  interrupted while waiting: the upgrade goes on";

/// Below `exuvia rollback --help`.
pub(super) const ROLLBACK: &str = "\
Only an upgrade that is not committed can be taken back: while the new process starts, or while the old one \
watches it (restart.probation). After that, put the previous version in place and upgrade to it.

Exit status:
  0  the old process serves again
  3  refused: there is nothing to roll back, or it is too late
  4  exuvia is not running or cannot be reached";

/// Below `exuvia status --help`.
pub(super) const STATUS: &str = "\
Phases:
  serving      accepts connections and takes orders
  starting     not ready yet
  candidate    ready and accepting; the old process still watches it
  upgrading    serving, and starting a new process
  ends a failed one  serving, and ending a new process that failed
  taking back  the same, after that one was told to take over and did not
  watching     watching the new process, ready to take everything back
  handing over  to the new process
  about to stop  accepting, but not ready: it was asked to stop
               (drain.stop_delay)
  draining     finishing what it had accepted
  cutting the rest  closing what did not finish within drain.timeout
  rolled back  draining, since its upgrade was taken back
(--json has the names of the program: aborting, reclaiming, probation, \
committing, lame_duck, cut, rolled_back)

Examples:
  exuvia status --json | jq .generation
  exuvia status --watch   A page that goes on, until q or Ctrl-C
  exuvia status --watch --json | jq -c .rates

Exit status:
  0    exuvia is running
  4    exuvia is not running or cannot be reached; with --watch: any more
  130  interrupted while watching";

/// Below `exuvia stop --help`.
pub(super) const STOP: &str = "\
With drain.stop_delay, the process first says for that long that it is not ready, and accepts on; asking again \
cuts that short. Then requests that are being answered may finish within drain.timeout; what is left is cut. \
Asking once more is the same as --now. Processes of earlier upgrades that still drain go on until they are done; --now ends them \
too.

Exit status:
  0    the process is gone
  1    it did not end
  4    exuvia is not running or cannot be reached
  130  interrupted while waiting: the process ends nevertheless";

/// Below `exuvia completions --help`.
pub(super) const COMPLETIONS: &str = "\
Examples:
  exuvia completions bash > /etc/bash_completion.d/exuvia
  exuvia completions zsh > \"${fpath[1]}/_exuvia\"
  exuvia completions fish > ~/.config/fish/completions/exuvia.fish";
