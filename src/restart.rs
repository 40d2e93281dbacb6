//! The graceful-restart core.

mod address;

pub use address::{ListenAddr, ParseAddrError};
