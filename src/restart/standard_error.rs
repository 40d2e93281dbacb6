//! What a daemon does with what is written to the standard error that all generations share.

use std::fmt::Debug;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;

/// Who writes to the standard error for the driver. It is called on the control thread, so it **must not wait**: not
/// even where nobody reads the standard error. See [`Driver::set_standard_error`](super::Driver::set_standard_error).
pub trait StandardError: Debug {
    /// Writes what a child has written, whole lines as far as it wrote lines.
    fn pass_on(&self, text: &[u8]);

    /// This process is on its own from now on: what it has to say goes to `to`, to which its standard error leads
    /// already, no longer through its parent. `unread` is what the parent may not have passed on: it does not block, and
    /// is to be read until it is empty.
    fn release(&self, to: OwnedFd, unread: OwnedFd);
}

/// Without a log: what the standard error takes at once is written, and the rest is lost.
#[derive(Debug)]
pub(crate) struct Unqueued;

/// What a pipe takes without waiting when it says that there is room (pipe(7), `PIPE_BUF`).
const AT_ONCE: usize = 4096;

impl StandardError for Unqueued {
    fn pass_on(&self, text: &[u8]) {
        let mut stderr = io::stderr();
        for part in text.chunks(AT_ONCE) {
            let mut wanted = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
            let has_room = poll(&mut wanted, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
            // Nobody may be reading it.
            if !has_room || stderr.write_all(part).is_err() {
                return;
            }
        }
    }

    fn release(&self, _to: OwnedFd, unread: OwnedFd) {
        let mut rest = [0; AT_ONCE];
        while let Ok(count @ 1..) = read(&unread, &mut rest) {
            self.pass_on(&rest[..count]);
        }
    }
}
