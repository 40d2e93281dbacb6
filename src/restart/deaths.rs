//! Who else has died: the processes that count in segments which this one holds.
//!
//! A channel ends a little before its process does, and may be held by a third: only the pidfd tells that nothing is
//! counted any more. It is waited for beside all else, and never polled for.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::task::Poll;

use tokio::io::unix::AsyncFd;

use super::sys;

/// The processes whose end is waited for.
#[derive(Debug, Default)]
pub(crate) struct Deaths(Vec<Watched>);

#[derive(Debug)]
struct Watched {
    generation: u32,
    pidfd: AsyncFd<OwnedFd>,
    told: bool,
}

impl Deaths {
    /// Waits for the end of this one, too.
    pub(crate) fn watch(&mut self, generation: u32, pidfd: OwnedFd) -> io::Result<()> {
        if self.0.iter().all(|watched| watched.generation != generation) {
            let pidfd = sys::watch_readable(pidfd)?;
            self.0.push(Watched { generation, pidfd, told: false });
        }
        Ok(())
    }

    /// Leaves the waiting to another; `None` if this one is not waited for.
    pub(crate) fn take(&mut self, generation: u32) -> Option<AsyncFd<OwnedFd>> {
        let at = self.0.iter().position(|watched| watched.generation == generation)?;
        Some(self.0.swap_remove(at).pidfd)
    }

    /// The next one that has died; each is told once. Cancel-safe; pending while there is none.
    pub(crate) async fn next(&mut self) -> u32 {
        poll_fn(|cx| {
            for watched in self.0.iter_mut().filter(|watched| !watched.told) {
                if watched.pidfd.poll_read_ready(cx).is_ready() {
                    watched.told = true;
                    return Poll::Ready(watched.generation);
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn each_death_is_told_once() {
        let mut deaths = Deaths::default();
        let mut start = |generation| {
            let process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
            deaths.watch(generation, sys::pidfd_of(process.id()).unwrap()).unwrap();
            process
        };
        let mut processes = [start(3), start(4)];
        drop(processes[1].stdin.take());
        assert_eq!(deaths.next().await, 4);
        drop(processes[0].stdin.take());
        assert_eq!(deaths.next().await, 3);
        assert!(deaths.take(3).is_some() && deaths.take(3).is_none());
        for mut process in processes {
            process.wait().unwrap();
        }
    }
}
