//! The graceful-restart core: it replaces a running process by the program on disk, without a connection
//! noticing. It knows nothing of HTTP.
//!
//! ```text
//!             SIGHUP, Handle::upgrade
//!                       │
//!  parent  Serving ─► Upgrading ─────► Probation ─────► Draining ─► gone
//!                       │  late, failed  │ child died,     │ all done, or
//!                       │                │ or a rollback   │ the deadline
//!                       ▼                ▼                 ▼
//!                    Serving          Serving            exit 0
//!
//!  child            Starting ──Ready─► Candidate ──Commit─► Serving, the owner
//! ```
//!
//! **The central invariant:** at every instant some live process holds every listening socket, and accepts
//! or will. The parent keeps its sockets until the child says that it is the owner; the child has had the
//! same sockets since before it ran.
//!
//! # The life of a process
//!
//! 1. [`Startup::begin`], first of all: takes what was passed on (sockets, the channel to the parent).
//! 2. [`Startup::listeners`] → [`Listeners::open`]: each listener is adopted, or bound if it is new.
//!    [`Startup::plan`]: what is going to be counted.
//! 3. [`Startup::assemble`]: the [`Driver`], the [`Handle`] to it, and a [`Member`] for each thread that
//!    serves connections.
//!    [`Driver::pack`]: what the next generation is to be given beside the sockets; it takes it out of
//!    [`Startup::luggage`].
//! 4. Each thread runs [`Member::attend`] with its share of the listeners, and begins each connection in its
//!    [`Tracker`].
//! 5. [`Driver::run`]: says that it is ready, and drives every upgrade until the process ends.
//!
//! `examples/echo.rs` is all of it in one page.
//!
//! # Where things are
//!
//! [`state`] decides (pure), `driver` performs. `spawn` is the parent's side of a birth, `startup` and
//! `inherit` the child's; `handoff` is what they say to each other, `peers` the generations that still drain.
//! `listeners`, `accept`, `member` and `tracker` serve the workers, `view` is what these are told. `segment` is
//! memory that outlives its process, for what is counted, `counts` what the core counts of connections in it, and
//! `milestone` and `trial` what a new
//! process has done of it while it is watched, `ledger` the sum over all generations, `deaths` tells when one counts no more. `notify` and `pidfile` speak to the outside, `signals`
//! keeps what the outside sends until it can be understood. `sys` has all the `unsafe`.

mod accept;
mod address;
mod counts;
mod deaths;
mod driver;
mod error;
mod handoff;
mod history;
mod inherit;
mod invocation;
mod ledger;
mod listeners;
mod luggage;
mod member;
mod milestone;
mod notify;
mod peers;
mod pidfile;
mod segment;
mod signals;
mod spawn;
mod standard_error;
mod startup;
pub mod state;
mod status;
mod sys;
mod tracker;
mod trial;
mod view;

pub use accept::{Accepted, Audience, Listener, Stream, unread_bytes};
pub use address::{ListenAddr, ParseAddrError};
pub use counts::{Counts, End, Kind, KindStatus, Kinds};
pub use driver::{Driver, Gone, Handle, Outcome};
pub use error::Error;
pub use history::{Cost, History, HistoryViewer, Loss, PastUpgrade, UnderWay, cost_words};
pub use ledger::{Books, BooksViewer, Total, Totals};
pub use listeners::{ListenOptions, Listeners};
pub use luggage::Luggage;
pub use member::Member;
pub use milestone::Milestone;
pub use segment::{
    Entry, Histogram, Kind as EntryKind, Malformed, Plan, Segment, Series, Shard, Slot, Table, Tally,
};
pub use signals::{HeldSignals, born_held};
pub use standard_error::StandardError;
pub use startup::{Options, Startup};
pub use state::{Failure, Phase, Stop, Verdict};
pub use status::{GenerationStatus, ListenerStatus, Progress, Status};
pub use tracker::{Guard, Tracker};
pub use trial::{Trial, Work};
pub use view::{Drain, View, Viewer};
