//! The graceful-restart core.

mod accept;
mod address;
mod error;
mod handoff;
mod inherit;
mod invocation;
mod listeners;
mod member;
pub mod state;
mod sys;
mod tracker;
mod view;

pub use accept::{Accepted, Audience, Listener, Stream, unread_bytes};
pub use address::{ListenAddr, ParseAddrError};
pub use error::Error;
pub use listeners::{ListenOptions, Listeners};
pub use member::Member;
pub use state::Phase;
pub use tracker::{Counts, End, Guard, Kind, KindStatus, Kinds, Tracker};
pub use view::{Drain, View, Viewer};
