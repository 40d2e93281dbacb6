//! A name with several addresses: the first that stands wins (RFC 8305, "happy eyeballs").
//!
//! ```text
//! ::1 ─ 250 ms ─┐          refused: the next at once
//! 10.0.0.1 ─────┴─ 250 ms ─┐
//! ::2 ─────────────────────┴─► stands: the others are dropped
//! ```
//!
//! Each connect begins with another address, so that a server with several gets connections on all of them. One that
//! has failed, or was overtaken by a later one, comes last for a while.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::proxy::upstream::standing::Standing;

/// How long after an attempt the next one begins (RFC 8305, section 5: "Connection Attempt Delay").
const DELAY: Duration = Duration::from_millis(250);

/// And at least (section 8).
const MIN_DELAY: Duration = Duration::from_millis(10);

/// How connections to the addresses of one name are made.
#[derive(Debug)]
pub(super) struct Race {
    /// How long a connect may take in all.
    limit: Duration,
    /// Counts the connects.
    turn: Cell<usize>,
    /// Of the addresses that have failed and not stood since; none that the name no longer has.
    failed: RefCell<Vec<(IpAddr, Standing)>>,
}

struct Attempt<'r> {
    address: IpAddr,
    connecting: Pin<Box<dyn Future<Output = io::Result<TcpStream>> + 'r>>,
}

impl Race {
    pub(super) fn within(limit: Duration) -> Race {
        Race { limit, turn: Cell::new(0), failed: RefCell::default() }
    }

    /// A connection to one of these addresses. The error is the last that there was.
    pub(super) async fn run(&self, addresses: &[IpAddr], port: u16) -> io::Result<TcpStream> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        self.failed.borrow_mut().retain(|(address, _)| addresses.contains(address));
        let order = self.order(addresses, turn, Instant::now());
        // All get their chance, however many there are.
        let share = self.limit / u32::try_from(order.len() + 1).unwrap_or(u32::MAX);
        let delay = DELAY.min(share).max(MIN_DELAY);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let mut order = order.into_iter();
        let mut attempts: Vec<Attempt<'_>> = Vec::new();
        let mut due = Instant::now();
        loop {
            if Instant::now() >= due || attempts.is_empty() {
                let Some(address) = order.next() else {
                    if attempts.is_empty() {
                        return Err(last);
                    }
                    due = Instant::now() + self.limit;
                    continue;
                };
                let connecting = Box::pin(connect(SocketAddr::new(address, port)));
                attempts.push(Attempt { address, connecting });
                due = Instant::now() + delay;
            }
            let ended = tokio::select! {
                biased;
                ended = first_to_end(&mut attempts) => ended,
                () = sleep_until(due) => continue,
            };
            let (at, result) = ended;
            let Attempt { address, .. } = attempts.remove(at);
            match result {
                Ok(stream) => {
                    self.failed.borrow_mut().retain(|(other, _)| *other != address);
                    // Those that had begun before it.
                    attempts[..at].iter().for_each(|attempt| self.mark(attempt.address));
                    return Ok(stream);
                }
                Err(error) => {
                    self.mark(address);
                    last = error;
                    due = Instant::now();
                }
            }
        }
    }

    /// The order in which they are tried: the families in turn, IPv6 first (section 4), those that have failed last.
    fn order(&self, addresses: &[IpAddr], turn: usize, now: Instant) -> Vec<IpAddr> {
        let family = |is_six: bool| {
            let mut family: Vec<IpAddr> =
                addresses.iter().copied().filter(|address| address.is_ipv6() == is_six).collect();
            let by = turn % family.len().max(1);
            family.rotate_left(by);
            family.into_iter()
        };
        let (mut six, mut four) = (family(true), family(false));
        let mut order = Vec::with_capacity(addresses.len());
        while order.len() < addresses.len() {
            order.extend(six.next().into_iter().chain(four.next()));
        }
        let failed = self.failed.borrow();
        let is_last = |address: &IpAddr| {
            failed.iter().any(|(other, standing)| other == address && standing.is_down(now))
        };
        // Stable: within each half the order stays.
        order.sort_by_key(is_last);
        order
    }

    fn mark(&self, address: IpAddr) {
        let mut failed = self.failed.borrow_mut();
        let at = failed.iter().position(|(other, _)| *other == address).unwrap_or_else(|| {
            failed.push((address, Standing::default()));
            failed.len() - 1
        });
        failed[at].1.fail(Instant::now());
    }
}

/// Waits for one of them to end.
async fn first_to_end(attempts: &mut [Attempt<'_>]) -> (usize, io::Result<TcpStream>) {
    poll_fn(|cx| {
        for (at, attempt) in attempts.iter_mut().enumerate() {
            if let Poll::Ready(result) = attempt.connecting.as_mut().poll(cx) {
                return Poll::Ready((at, result));
            }
        }
        Poll::Pending
    })
    .await
}

pub(super) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_families_take_turns_and_so_do_their_addresses() {
        let (race, now) = (Race::within(Duration::from_secs(3)), Instant::now());
        let all = addresses(&["::1", "::2", "10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        let order = |turn| race.order(&all, turn, now);
        assert_eq!(order(0), addresses(&["::1", "10.0.0.1", "::2", "10.0.0.2", "10.0.0.3"]));
        assert_eq!(order(1), addresses(&["::2", "10.0.0.2", "::1", "10.0.0.3", "10.0.0.1"]));
        race.mark("::1".parse().unwrap());
        assert_eq!(order(0), addresses(&["10.0.0.1", "::2", "10.0.0.2", "10.0.0.3", "::1"]));
    }
}
