//! The parent's side of an upgrade: fork, exec, and the child that comes of it.

use std::collections::VecDeque;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::unix::pipe;
use tokio::time::{Instant, timeout, timeout_at};

use super::error::Error;
use super::handoff::{Channel, End, Message, Packet};
use super::inherit::{HANDOFF, MAX_SEGMENTS, SEGMENT};
use super::invocation::{Invocation, c_string};
use super::ledger::Books;
use super::listeners::Group;
use super::signals::born_held;
use super::standard_error::StandardError;
use super::state::Failure;
use super::sys;

/// A child, from fork to death.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: i32,
    pub(crate) generation: u32,
    pub(crate) channel: Channel,
    /// Its counters, once it has told of them.
    pub(crate) segment: Option<OwnedFd>,
    pidfd: AsyncFd<OwnedFd>,
    /// Brings the errno of a failed exec, or end-of-file; `None` once it has.
    exec: Option<pipe::Receiver>,
    /// What the child writes to its standard error until it is on its own; `None` at end-of-file.
    stderr: Option<pipe::Receiver>,
    tail: Tail,
    /// When it was seen to be dead.
    dead_since: Option<Instant>,
}

/// What a child does.
#[derive(Debug)]
pub(crate) enum ChildEvent {
    /// The program could not be executed.
    ExecFailed(Failure),
    /// It says something.
    Said(Message),
    /// It sent what is not in the protocol.
    Garbled(Failure),
    /// It is dead.
    Died(Failure),
}

/// How long a dead child may stay unreaped by its parent, which is also ours, before its exit status is
/// given up. The kernel tells it only after that.
const REAP_PATIENCE: Duration = Duration::from_millis(250);
/// The same while nobody accepts until the death is told.
const REAP_PATIENCE_PAUSED: Duration = Duration::from_millis(20);

/// Starts the program anew. `offer` is in the channel before the child exists, with our standard error, the
/// reading end of the child's, and `descriptors`.
pub(crate) fn spawn(
    program: &Path,
    invocation: &Invocation,
    groups: &[Group],
    segments: &Books,
    generation: u32,
    offer: &Message,
    descriptors: &[BorrowedFd<'_>],
) -> Result<Child, Failure> {
    check_program(program)?;
    let prepared = (|| {
        let (exec, exec_failed) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let (stderr, their_stderr) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let (exec, stderr) = (receiver(exec)?, receiver(stderr)?);
        let (ours, theirs) = End::pair()?;
        let ours = Channel::new(ours)?;
        let our_stderr = io::stderr();
        let descriptors: Vec<BorrowedFd<'_>> =
            [our_stderr.as_fd(), stderr.as_fd()].into_iter().chain(descriptors.iter().copied()).collect();
        ours.end().send(offer, &descriptors)?;

        let named =
            groups.iter().flat_map(|group| group.sockets.iter().map(|socket| (&*group.name, socket.as_fd())));
        let (mut names, mut fds): (Vec<&str>, Vec<BorrowedFd<'_>>) = named.unzip();
        for segment in segments.descriptors().take(MAX_SEGMENTS) {
            names.push(SEGMENT);
            fds.push(segment);
        }
        names.push(HANDOFF);
        fds.push(theirs.as_fd());

        // Copies above the numbers that the child will give, so that none is overwritten before its turn.
        let lowest = 3 + i32::try_from(fds.len()).unwrap_or(i32::MAX - 3);
        let lift = |fd: BorrowedFd<'_>| sys::duplicate_above(fd, lowest);
        let lifted = fds.iter().map(|fd| lift(*fd)).collect::<io::Result<Vec<OwnedFd>>>()?;
        let (their_stderr, exec_failed) = (lift(their_stderr.as_fd())?, lift(exec_failed.as_fd())?);
        let fds: Vec<BorrowedFd<'_>> = lifted.iter().map(AsFd::as_fd).collect();

        let argv = invocation.argv.iter().map(c_string).collect::<io::Result<Vec<CString>>>()?;
        let mut envp = invocation
            .environment
            .iter()
            .map(|(name, value)| {
                let mut entry = OsString::from(name);
                entry.push("=");
                entry.push(value);
                c_string(entry)
            })
            .collect::<io::Result<Vec<CString>>>()?;
        let listen_pid = envp.len();
        envp.push(c_string(sys::LISTEN_PID_BLANK)?);
        envp.push(c_string(format!("LISTEN_FDS={}", fds.len()))?);
        envp.push(c_string(format!("LISTEN_FDNAMES={}", names.join(":")))?);

        let born = sys::spawn_sibling(&sys::Exec {
            program: &c_string(program)?,
            argv: &argv,
            envp: &envp,
            listen_pid,
            directory: &c_string(&invocation.directory)?,
            fds: &fds,
            stderr: their_stderr.as_fd(),
            held: born_held(),
            failed: exec_failed.as_fd(),
        });
        let born = born.map_err(|error| match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            Errno::EINVAL if std::process::id() == 1 => io::Error::new(
                error.kind(),
                "the init of a PID namespace can have no sibling; run it with --supervise=always",
            ),
            _ => error,
        })?;
        // One that is not watched must not live: with the channel closed it would take itself for the heir.
        let pidfd = born.pidfd.try_clone().and_then(sys::watch_readable);
        let pidfd = pidfd.inspect_err(|_| {
            if let Err(error) = sys::kill(born.pidfd.as_fd()) {
                tracing::error!(pid = born.pid, %error, "cannot kill a new process that cannot be watched");
            }
        })?;
        Ok(Child {
            pid: born.pid,
            generation,
            channel: ours,
            segment: None,
            pidfd,
            exec: Some(exec),
            stderr: Some(stderr),
            tail: Tail::default(),
            dead_since: None,
        })
    })();
    prepared
        .map_err(|error: io::Error| Failure::new("spawn", format!("cannot make the new process: {error}")))
}

fn receiver(pipe: OwnedFd) -> io::Result<pipe::Receiver> {
    fcntl(&pipe, FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    pipe::Receiver::from_owned_fd(pipe)
}

/// What can be said better before the fork than by an errno after it.
fn check_program(program: &Path) -> Result<(), Failure> {
    let failure =
        |cause: String| Failure::new("exec", format!("cannot execute {}: {cause}", program.display()));
    let metadata = std::fs::metadata(program).map_err(|error| failure(error.to_string()))?;
    if !metadata.is_file() {
        return Err(failure("it is not a file".into()));
    }
    nix::unistd::access(program, nix::unistd::AccessFlags::X_OK)
        .map_err(|errno| failure(format!("{}; is it executable (chmod +x)?", io::Error::from(errno))))
}

impl Child {
    /// What the child does next; `paused` says that nobody accepts if it is dead. Cancel-safe. Not to be
    /// called after [`ChildEvent::Died`].
    pub(crate) async fn next(
        &mut self,
        program: &Path,
        paused: bool,
        standard_error: &dyn StandardError,
    ) -> ChildEvent {
        loop {
            let is_dead = self.dead_since.is_some();
            tokio::select! {
                biased;
                errno = read_errno(self.exec.as_mut()), if self.exec.is_some() => {
                    self.exec = None;
                    if let Some(errno) = errno {
                        return ChildEvent::ExecFailed(exec_failure(program, errno));
                    }
                }
                packet = self.channel.receive(), if !self.channel.is_closed() => {
                    // Without one it is dead, or about to be: the pidfd tells.
                    if let Some(packet) = packet {
                        return self.heard(packet);
                    }
                }
                more = self.tail.pump(self.stderr.as_mut(), standard_error), if self.stderr.is_some() => {
                    if !more {
                        self.stderr = None;
                    }
                }
                () = async {
                    // Seen before, this was waiting for more.
                    if !is_dead {
                        self.pidfd.readable().await.ok();
                    }
                } => {
                    // What it said before it died counts first.
                    if let Some(event) = self.unread() {
                        return event;
                    }
                    let patience = if paused { REAP_PATIENCE_PAUSED } else { REAP_PATIENCE };
                    return ChildEvent::Died(self.obituary(patience, standard_error).await);
                }
            }
        }
    }

    /// What it has said and nobody has heard yet.
    pub(crate) fn unread(&mut self) -> Option<ChildEvent> {
        self.channel.unread().map(|packet| self.heard(packet))
    }

    fn heard(&mut self, packet: Result<Packet, Error>) -> ChildEvent {
        match packet {
            Ok((message, descriptors)) => {
                if let Message::Ready(_) = message {
                    self.segment = descriptors.into_iter().next();
                }
                ChildEvent::Said(message)
            }
            Err(error) => ChildEvent::Garbled(Failure::from(&error)),
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&self) {
        // ESRCH: it is dead already, which is what was wanted.
        if let Err(error) = sys::kill(self.pidfd()) {
            tracing::debug!(pid = self.pid, %error, "cannot kill the child");
        }
    }

    /// Adds to `failure` what the child has written to its standard error.
    pub(crate) fn with_stderr(&self, failure: Failure) -> Failure {
        match self.tail.text() {
            text if text.is_empty() => failure,
            text => Failure {
                message: format!("{}\nits last words on standard error:\n{text}", failure.message),
                ..failure
            },
        }
    }

    /// The channel and the pidfd of a child that goes on by itself.
    pub(crate) fn into_parts(mut self, standard_error: &dyn StandardError) -> (Channel, AsyncFd<OwnedFd>) {
        self.tail.pass_on_rest(standard_error);
        (self.channel, self.pidfd)
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.get_ref().as_fd()
    }

    async fn obituary(&mut self, patience: Duration, standard_error: &dyn StandardError) -> Failure {
        // Whatever else happens drops this future and makes another: the patience is for all of them.
        let until = *self.dead_since.get_or_insert_with(Instant::now) + patience;
        let reaped = async {
            loop {
                match sys::exit_status(self.pidfd()) {
                    Ok(None) => {}
                    status => return status.ok().flatten(),
                }
                // A kernel that tells the status also says when it can be asked for: the pidfd hangs up.
                let mut ready = self.pidfd.ready(Interest::READABLE).await.ok()?;
                ready.clear_ready();
            }
        };
        let status = timeout_at(until, reaped).await.ok().flatten();
        // Everything it wrote is in the pipe by now; a grandchild may hold the pipe open for ever.
        let rest = async { while self.tail.pump(self.stderr.as_mut(), standard_error).await {} };
        timeout(Duration::ZERO, rest).await.ok();
        self.tail.pass_on_rest(standard_error);
        Failure::new("child", describe_status(status))
    }
}

async fn read_errno(exec: Option<&mut pipe::Receiver>) -> Option<Errno> {
    let mut errno = [0; 4];
    exec?.read_exact(&mut errno).await.ok()?;
    Some(Errno::from_raw(i32::from_ne_bytes(errno)))
}

fn exec_failure(program: &Path, errno: Errno) -> Failure {
    let hint = match errno {
        Errno::ENOEXEC => "; it is not a program for this machine",
        Errno::ENOENT => "; the file is there, so its interpreter or loader is missing",
        Errno::ETXTBSY => "; it is being written: put a new file in its place with mv instead",
        _ => "",
    };
    Failure::new("exec", format!("cannot execute {}: {}{hint}", program.display(), io::Error::from(errno)))
}

/// A wait status in words.
fn describe_status(status: Option<i32>) -> String {
    let Some(status) = status else {
        return "the new process died; the kernel does not tell its exit status".to_owned();
    };
    let signal = status & 0x7f;
    if signal == 0 {
        return format!("the new process exited with status {}", (status >> 8) & 0xff);
    }
    match Signal::try_from(signal) {
        Ok(name) => format!("the new process was killed by {name}"),
        Err(_) => format!("the new process was killed by signal {signal}"),
    }
}

/// The last lines of a stream that is passed on to our own standard error.
#[derive(Debug, Default)]
struct Tail {
    last: VecDeque<u8>,
    /// The beginning of a line of which the end has not come, so that no other line gets into it.
    begun: Vec<u8>,
}

impl Tail {
    const BYTES: usize = 4096;
    const LINES: usize = 20;
    /// The longest line that is waited for.
    const LINE: usize = 16 * 1024;

    /// Passes on what is there; `false` at the end.
    async fn pump(
        &mut self,
        stream: Option<&mut pipe::Receiver>,
        standard_error: &dyn StandardError,
    ) -> bool {
        let mut bytes = [0; 4096];
        let Some(stream) = stream else { return false };
        let Ok(count @ 1..) = stream.read(&mut bytes).await else {
            self.pass_on_rest(standard_error);
            return false;
        };
        self.push(&bytes[..count], standard_error);
        true
    }

    fn push(&mut self, bytes: &[u8], standard_error: &dyn StandardError) {
        self.begun.extend(bytes);
        let whole = self.begun.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole = if self.begun.len() - whole > Self::LINE { self.begun.len() } else { whole };
        if whole > 0 {
            standard_error.pass_on(&self.begun[..whole]);
            self.begun.drain(..whole);
        }
        self.last.extend(bytes);
        self.last.drain(..self.last.len().saturating_sub(Self::BYTES));
    }

    /// No more comes.
    fn pass_on_rest(&mut self, standard_error: &dyn StandardError) {
        if !self.begun.is_empty() {
            standard_error.pass_on(&std::mem::take(&mut self.begun));
        }
    }

    fn text(&self) -> String {
        let bytes: Vec<u8> = self.last.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().map(without_priority).collect();
        lines[lines.len().saturating_sub(Self::LINES)..].join("\n")
    }
}

/// A line without what tells its priority to the journal (sd-daemon(3)).
fn without_priority(line: &str) -> &str {
    match line.as_bytes() {
        [b'<', b'0'..=b'7', b'>', ..] => &line[3..],
        _ => line,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::from(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_in_words() {
        assert_eq!(describe_status(Some(3 << 8)), "the new process exited with status 3");
        assert_eq!(describe_status(Some(11)), "the new process was killed by SIGSEGV");
        assert_eq!(describe_status(Some(9 | 0x80)), "the new process was killed by SIGKILL");
        assert!(describe_status(None).contains("does not tell"));
    }

    /// Remembers what is passed on.
    #[derive(Debug, Default)]
    struct Heard(std::cell::RefCell<Vec<String>>);

    impl StandardError for Heard {
        fn pass_on(&self, text: &[u8]) {
            self.0.borrow_mut().push(String::from_utf8(text.to_vec()).unwrap());
        }

        fn release(&self, _to: OwnedFd, _unread: OwnedFd) {}
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut tail = Tail::default();
        for i in 0..100 {
            tail.push(format!("line {i}\n").as_bytes(), &Heard::default());
        }
        let text = tail.text();
        assert_eq!(text.lines().count(), Tail::LINES);
        assert!(text.starts_with("line 80\n") && text.ends_with("line 99"), "{text}");
    }

    #[test]
    fn whole_lines_are_passed_on() {
        let (mut tail, heard) = (Tail::default(), Heard::default());
        for part in ["<4>one\n<3>t", "wo", "\n", "three"] {
            tail.push(part.as_bytes(), &heard);
        }
        assert_eq!(*heard.0.borrow(), ["<4>one\n", "<3>two\n"]);
        tail.pass_on_rest(&heard);
        tail.pass_on_rest(&heard);
        assert_eq!(heard.0.borrow()[2..], ["three"]);
        tail.push(&[b'x'; Tail::LINE + 1], &heard);
        assert_eq!(heard.0.borrow()[3].len(), Tail::LINE + 1, "one without an end is not waited for");
        assert!(tail.text().ends_with('x'));
    }

    #[test]
    fn the_priorities_of_lines_are_for_the_journal() {
        assert_eq!(without_priority("<3>it failed"), "it failed");
        for line in ["<8>x", "<p>x", "<3", "it failed"] {
            assert_eq!(without_priority(line), line);
        }
    }
}
