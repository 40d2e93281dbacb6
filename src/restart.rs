//! The graceful-restart core.

mod accept;
mod address;
mod driver;
mod error;
mod handoff;
mod inherit;
mod invocation;
mod listeners;
mod member;
mod notify;
mod peers;
mod pidfile;
mod spawn;
mod startup;
pub mod state;
mod status;
mod sys;
mod tracker;
mod view;

pub use accept::{Accepted, Audience, Listener, Stream, unread_bytes};
pub use address::{ListenAddr, ParseAddrError};
pub use driver::{Driver, Gone, Handle, Outcome};
pub use error::Error;
pub use listeners::{ListenOptions, Listeners};
pub use member::Member;
pub use startup::{Options, Startup};
pub use state::{Failure, Phase, Stop, Verdict};
pub use status::{GenerationStatus, ListenerStatus, Progress, Status};
pub use tracker::{Counts, End, Guard, Kind, KindStatus, Kinds, Tracker};
pub use view::{Drain, View, Viewer};
