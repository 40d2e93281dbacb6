//! The threads that generate load, each with a runtime, connections and counts of its own.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rustls::RootCertStore;
use tokio::runtime;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{interval, timeout};

use crate::now::Now;
use crate::recorder::{Recorder, Slice, Totals};
use crate::scenario::Scenario;
use crate::traffic::{Connector, Context, Order, Targets, users};

/// How long the connections that were let go may take to end.
const CLOSING: Duration = Duration::from_secs(2);

/// How often it is told what was counted, however long a slice is: the rate that is shown is of the last second.
const REPORT: Duration = Duration::from_millis(200);

/// Where the load goes, and whose certificates are believed.
#[derive(Clone, Debug)]
pub struct Aim {
    /// The proxy.
    pub targets: Targets,
    /// Who must have issued its certificate.
    pub roots: Arc<RootCertStore>,
}

/// What a thread needs to know.
#[derive(Clone, Debug)]
pub struct Task {
    /// What is to be done.
    pub scenario: Arc<Scenario>,
    /// To whom.
    pub aim: Aim,
    /// The run's clock.
    pub now: Now,
    /// How long a slice is.
    pub slice: Duration,
    /// What is to be done now.
    pub orders: watch::Receiver<Order>,
}

/// Starts a thread. Its slices go to `slices`; it ends with all that it counted, or with what it could not do.
///
/// # Errors
///
/// The system gives no thread.
pub fn start(
    task: Task,
    thread: usize,
    slices: UnboundedSender<Slice>,
) -> io::Result<JoinHandle<Result<Totals, String>>> {
    Builder::new().name(format!("load-{thread}")).spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("no runtime for a thread of load: {error}"))?;
        LocalSet::new().block_on(&runtime, generate(task, thread, slices))
    })
}

async fn generate(task: Task, thread: usize, slices: UnboundedSender<Slice>) -> Result<Totals, String> {
    let Task { scenario, aim, now, slice, mut orders } = task;
    let end = now.begun() + scenario.duration;
    let recorder = Rc::new(Recorder::new(now.clone(), &scenario, slice, slices));
    // Nobody listens to what is counted aside.
    let aside = Rc::new(Recorder::new(now, &scenario, slice, unbounded_channel().0));
    let context = Rc::new(Context {
        recorder: Rc::clone(&recorder),
        aside,
        connector: Rc::new(Connector::new(aim.targets, &aim.roots)?),
        timeout: scenario.timeout,
        end,
        orders: orders.clone(),
    });
    let reporting = Rc::clone(&recorder);
    let reports = spawn_local(async move {
        let mut reports = interval(slice.min(REPORT));
        loop {
            reports.tick().await;
            reporting.report();
        }
    });
    let mut users = users(&context, &scenario, thread);
    let (mut panicked, mut cut) = (false, false);
    loop {
        tokio::select! {
            ended = users.join_next() => match ended {
                None => break,
                Some(ended) => panicked |= ended.is_err_and(|error| error.is_panic()),
            },
            // If whoever gives the orders is gone, that is a cut as well.
            _ = orders.wait_for(|order| *order == Order::Cut), if !cut => {
                cut = true;
                users.abort_all();
            }
        }
    }
    // What was let go ends a moment later, and is counted then.
    drop(timeout(CLOSING, recorder.all_closed()).await);
    reports.abort();
    if panicked {
        Err("the witness itself has failed: see what it wrote to standard error".into())
    } else {
        Ok(recorder.finish())
    }
}
