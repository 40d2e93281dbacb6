//! Where the status page is when nothing is configured: the demonstration shows it without being asked.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use super::ADMIN;
use crate::restart::{self, ListenAddr, ListenOptions, Listeners};

/// The port that is tried first.
const PORT: u16 = 9090;

/// Opens the admin listener of the demonstration on a loopback port: where the predecessor had it, else on [`PORT`], or
/// on a free one if that is taken. Without a page the demonstration goes on, and the log says why.
///
/// To be called when every other listener is open.
pub(super) fn open(listeners: &mut Listeners, options: &ListenOptions) {
    let loopback = |port| ListenAddr::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let free = loopback(0);
    // What was inherited satisfies any port. A port of our own would be shared, not refused.
    let is_ours = |address: &ListenAddr| matches!(address, ListenAddr::Tcp(tcp) if tcp.port() == PORT);
    let wanted = match listeners.inherited(ADMIN).any(|address| free.is_satisfied_by(address)) {
        true => free.clone(),
        false if listeners.addresses().any(|(_, address)| is_ours(address)) => free.clone(),
        false => loopback(PORT),
    };
    let opened = listeners.open(ADMIN, &wanted, options).or_else(|error| match error {
        restart::Error::Listen { ref cause, .. } if cause.kind() == io::ErrorKind::AddrInUse => {
            listeners.open(ADMIN, &free, options)
        }
        error => Err(error),
    });
    if let Err(error) = opened {
        tracing::warn!(%error, "the demonstration has no status page; admin.address names a place for it");
    }
}
