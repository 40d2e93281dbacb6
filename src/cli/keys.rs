//! The keys that a person presses while something is shown on the whole terminal.

use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::thread;

use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};
use tokio::sync::mpsc;

/// A terminal whose keys come one by one and are not shown. It is given back as it was, whatever happens.
#[derive(Debug)]
pub(super) struct Keys {
    before: Termios,
    quits: mpsc::Receiver<()>,
}

impl Keys {
    /// Takes the keys of standard input; `None` if that is no terminal, or somebody else has it now.
    pub(super) fn take() -> Option<Keys> {
        let stdin = io::stdin();
        let is_ours = stdin.is_terminal() && tcgetpgrp(stdin.as_fd()).is_ok_and(|group| group == getpgrp());
        if !is_ours {
            return None;
        }
        let before = tcgetattr(stdin.as_fd()).ok()?;
        let (sender, quits) = mpsc::channel(1);
        // A read of a terminal cannot be taken back: its thread ends with the process.
        let reads = thread::Builder::new().name("keys".into()).spawn(move || {
            for key in io::stdin().lock().bytes().map_while(Result::ok) {
                if b"qQ".contains(&key) && sender.blocking_send(()).is_err() {
                    return;
                }
            }
        });
        reads.ok()?;
        let keys = Keys { before, quits };
        keys.take_again();
        Some(keys)
    }

    /// Takes the terminal after [`Keys::give_back`].
    pub(super) fn take_again(&self) {
        let mut raw = self.before.clone();
        // Signals stay: Ctrl-C is one.
        raw.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &raw).ok();
    }

    /// Makes the terminal what it was.
    pub(super) fn give_back(&self) {
        tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &self.before).ok();
    }

    /// Waits until `q` is pressed. Cancel-safe.
    pub(super) async fn quit(&mut self) {
        if self.quits.recv().await.is_none() {
            std::future::pending().await
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.give_back();
    }
}
