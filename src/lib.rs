//! exuvia: see `ARCHITECTURE.md`.

pub mod restart;
#[cfg(feature = "proxy")]
pub mod settings;
#[cfg(feature = "proxy")]
pub mod supervise;
