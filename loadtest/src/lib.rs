//! A strict witness of what an upgrade does to traffic: a load generator that never retries, and says of every
//! request, stream and message how it ended.
//!
//! Its parts are here, the program that puts them together is not yet: `main.rs` says so.
//!
//! # One run, from file to file
//!
//! 1. [`scenario`]: shares or a file become a checked [`Scenario`](scenario::Scenario); [`plan`] makes of it and a
//!    seed what each user does, and when.
//! 2. [`run`]: [`generator`] threads apply the load ([`traffic`]), and somebody disturbs. [`now`] has the run's clock
//!    and the phase of the upgrade.
//! 3. [`witness`] has the words: in which class an exchange ended, and what is only a disturbance. [`recorder`] counts
//!    on each thread; [`results`] is the sum, and the JSON document.
//! 4. [`stage`] starts the proxies, [`ways`] has them upgraded (exuvia by its [`control`] socket), [`sampler`] watches
//!    what their processes take.
//! 5. [`upstream`] is the server behind the proxy; both ends know the bytes ([`content`]).
//! 6. [`table`] shows the results in a terminal, [`report`] as a page.

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
