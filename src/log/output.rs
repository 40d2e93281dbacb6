//! Where the writer's thread writes to, and how it is sent elsewhere while it waits.
//!
//! Until a new generation is on its own, its standard error is a pipe to the one before. If that dies while the pipe is
//! full, a plain write would wait for ever. So the writer asks before each write whether there is room, and waits for
//! that or for [`Mover::move_to`], whichever comes first.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{read, write};

/// What a pipe takes without waiting when it says that there is room (pipe(7), `PIPE_BUF`).
pub(super) const AT_ONCE: usize = 4096;

/// The descriptor that is written to.
#[derive(Debug)]
pub(super) struct Output {
    file: OwnedFd,
    /// Until it has moved, or never will.
    moves: Option<Moves>,
}

#[derive(Debug)]
struct Moves {
    /// Ends when there is somewhere else to go, or never will be.
    wake: PipeReader,
    place: Receiver<Place>,
}

/// Where to write to from now on, and what is still unread of what was written before.
#[derive(Debug)]
struct Place {
    file: OwnedFd,
    unread: OwnedFd,
}

/// Sends an [`Output`] elsewhere, once.
#[derive(Debug)]
pub(super) struct Mover {
    place: SyncSender<Place>,
    /// Closed last: the output looks for a place when it sees the end of it.
    _wake: PipeWriter,
}

impl Mover {
    /// From now on `file` is written to, first with what there is in `unread`, which must not block.
    pub(super) fn move_to(self, file: OwnedFd, unread: OwnedFd) {
        // The writer is gone only when the process ends.
        self.place.try_send(Place { file, unread }).ok();
    }
}

impl Output {
    pub(super) fn new(file: OwnedFd) -> io::Result<(Output, Mover)> {
        let (wake, their_wake) = io::pipe()?;
        let (sender, place) = sync_channel(1);
        let output = Output { file, moves: Some(Moves { wake, place }) };
        Ok((output, Mover { place: sender, _wake: their_wake }))
    }

    /// Writes all of it, however long that takes.
    pub(super) fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.wait()?;
            let count = write_some(self.file.as_fd(), bytes)?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Moves if it has been told to.
    pub(super) fn look(&mut self) {
        let Some(moves) = &self.moves else { return };
        let mut watched = [PollFd::new(moves.wake.as_fd(), PollFlags::POLLIN)];
        if poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
            self.relocate();
        }
    }

    /// Waits until there is room.
    fn wait(&mut self) -> io::Result<()> {
        loop {
            let Some(moves) = &self.moves else { return wait_for_room(self.file.as_fd()) };
            let mut watched = [
                PollFd::new(moves.wake.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.file.as_fd(), PollFlags::POLLOUT),
            ];
            match poll(&mut watched, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            let [is_woken, has_room] = watched.map(|fd| fd.any().unwrap_or(false));
            if is_woken {
                self.relocate();
            } else if has_room {
                return Ok(());
            }
        }
    }

    fn relocate(&mut self) {
        let Some(Place { file, unread }) = self.moves.take().and_then(|moves| moves.place.try_recv().ok())
        else {
            return;
        };
        self.file = file;
        let mut rest = [0; AT_ONCE];
        // It ends when it is empty. Nobody else writes to it any more.
        while let Ok(count @ 1..) = read(&unread, &mut rest) {
            // What the new place does not take is lost in any case.
            self.write_all(&rest[..count]).ok();
        }
    }
}

fn wait_for_room(file: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(file, PollFlags::POLLOUT)], PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            ready => return ready.map(drop).map_err(io::Error::from),
        }
    }
}

/// Writes what fits; 0 if that is nothing after all.
fn write_some(file: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    match write(file, &bytes[..bytes.len().min(AT_ONCE)]) {
        Err(Errno::EINTR | Errno::EAGAIN) => Ok(0),
        written => Ok(written?),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::thread;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    /// A pipe that is full, as that of a new process whose parent has stopped reading, and how many bytes are in it.
    fn full_pipe() -> (PipeReader, PipeWriter, usize) {
        let (reader, mut writer) = io::pipe().unwrap();
        let nonblocking = |on| {
            let flags = if on { OFlag::O_NONBLOCK } else { OFlag::empty() };
            fcntl(&writer, FcntlArg::F_SETFL(flags)).unwrap();
        };
        nonblocking(true);
        let mut count = 0;
        let mut fill = &writer;
        while let Ok(written) = fill.write(&[b'x'; AT_ONCE]) {
            count += written;
        }
        nonblocking(false);
        writer.flush().unwrap();
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        (reader, writer, count)
    }

    /// A new process waited for ever for room in the pipe to its predecessor, which was dead.
    #[test]
    fn a_writer_that_waits_goes_where_it_is_sent_and_takes_what_is_unread_along() {
        let (unread, pipe, count) = full_pipe();
        let (mut output, mover) = Output::new(pipe.into()).unwrap();
        let (mut reader, file) = io::pipe().unwrap();
        let writer = thread::spawn(move || output.write_all(b"a line\n"));
        mover.move_to(file.into(), OwnedFd::from(unread));
        let mut written = Vec::new();
        reader.read_to_end(&mut written).unwrap();
        writer.join().unwrap().unwrap();
        assert_eq!(written.len(), count + 7);
        assert!(written.ends_with(b"xa line\n"));
    }

    #[test]
    fn without_a_place_to_go_it_stays() {
        let (mut reader, file) = io::pipe().unwrap();
        let (mut output, mover) = Output::new(file.into()).unwrap();
        drop(mover);
        output.look();
        output.write_all(b"a line\n").unwrap();
        drop(output);
        let mut written = String::new();
        reader.read_to_string(&mut written).unwrap();
        assert_eq!(written, "a line\n");
    }

    #[test]
    fn what_has_no_reader_is_an_error_and_no_signal() {
        let (reader, file) = io::pipe().unwrap();
        let (mut output, _mover) = Output::new(file.into()).unwrap();
        drop(reader);
        assert_eq!(output.write_all(b"a line\n").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
