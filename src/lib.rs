//! exuvia: see `ARCHITECTURE.md`.

#[cfg(feature = "proxy")]
pub mod demo;
#[cfg(feature = "proxy")]
pub mod proxy;
pub mod restart;
#[cfg(feature = "proxy")]
pub mod server;
#[cfg(feature = "proxy")]
mod timer;
#[cfg(feature = "proxy")]
pub mod worker;
