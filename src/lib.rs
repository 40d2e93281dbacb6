//! exuvia: see `ARCHITECTURE.md`.

pub mod restart;
