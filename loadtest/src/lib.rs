//! A strict witness of what an upgrade does to traffic: a load generator that never retries, and says of every
//! request, stream and message how it ended.
//!
//! # One run, from file to file
//!
//! 1. `main.rs`, `cli.rs` (the program): options become a checked [`Scenario`](scenario::Scenario) and a call of
//!    [`trial`], which starts what is needed, asks once whether it is the right thing ([`probe`]), and ends it all.
//! 2. [`plan`] makes of the scenario and its seed what each user does, and when.
//! 3. [`run`]: [`generator`] threads apply the load ([`traffic`]), and [`disturb`] has the proxy upgraded, and worse.
//!    [`now`] has the run's clock and the phase of the upgrade.
//! 4. [`witness`] has the words: in which class an exchange ended, and what is only a disturbance. [`recorder`] counts
//!    on each thread; [`results`] is the sum, and the JSON document; [`verdict`] judges it.
//! 5. [`stage`] starts the proxies, [`ways`] has them upgraded (exuvia by its [`control`] socket), [`sampler`] watches
//!    what their processes take.
//! 6. [`upstream`] is the server behind the proxy; both ends know the bytes ([`content`]).
//! 7. [`mod@table`] and [`report`] show the results; [`compare`] those of several proxies side by side.

pub mod compare;
pub mod content;
pub mod control;
pub mod disturb;
pub mod generator;
pub mod host;
mod local;
pub mod now;
pub mod plan;
pub mod probe;
pub mod recorder;
pub mod report;
pub mod results;
pub mod run;
pub mod sampler;
pub mod scenario;
pub mod stage;
pub mod table;
pub mod traffic;
pub mod trial;
pub mod upstream;
pub mod verdict;
pub mod ways;
pub mod witness;
