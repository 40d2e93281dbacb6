//! The keys that a person presses while something is shown on the whole terminal.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, read, tcgetpgrp};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A terminal whose keys come one by one and are not shown. It is given back as it was, whatever happens.
#[derive(Debug)]
pub(super) struct Keys {
    input: AsyncFd<OwnedFd>,
    before: Termios,
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
        let input = stdin.as_fd().try_clone_to_owned().ok()?;
        let input = AsyncFd::with_interest(input, Interest::READABLE).ok()?;
        let mut raw = before.clone();
        // Signals stay: Ctrl-C is one. A read never waits, without O_NONBLOCK, which others would have, too.
        raw.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 0;
        raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).ok()?;
        Some(Keys { input, before })
    }

    /// Waits until `q` is pressed. Cancel-safe.
    pub(super) async fn quit(&self) {
        loop {
            let Ok(mut ready) = self.input.readable().await else { return std::future::pending().await };
            let mut pressed = [0; 64];
            match read(self.input.get_ref(), &mut pressed) {
                Ok(0) => ready.clear_ready(),
                Ok(length) if pressed[..length].iter().any(|key| b"qQ".contains(key)) => return,
                Ok(_) => {}
                // The terminal has gone, which a signal says, too.
                Err(_) => return std::future::pending().await,
            }
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        tcsetattr(self.input.get_ref(), SetArg::TCSANOW, &self.before).ok();
    }
}
