//! A strict witness of what an upgrade does to traffic: a load generator that never retries, and says of every
//! request, stream and message how it ended.
//!
//! # One run, from file to file
//!
//! 1. `main.rs` → [`cli`]: arguments, one call, an exit code.
//! 2. [`scenario`]: shares or a file become a checked [`Scenario`](scenario::Scenario); [`plan`] makes of it and a
//!    seed what each user does, and when.
//! 3. [`stage`]: the upstream and the proxy are started, if no proxy was named.
//! 4. [`run`]: generator threads ([`traffic`]) apply the load, [`disturb`] upgrades and kills, [`sampler`] watches the
//!    processes, [`progress`] shows how it goes.
//! 5. [`witness`] has the words: in which class an exchange ended, and what is only a disturbance. [`recorder`] counts
//!    on each thread; [`results`] is the sum, and the JSON document.
//! 6. [`table`] prints it, [`report`] makes a page of it. [`compare`] does all of this for several proxies in turn.

pub mod report;
pub mod results;
pub mod scenario;
pub mod table;
pub mod witness;
