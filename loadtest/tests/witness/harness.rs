//! An upstream with a certificate, and runs against it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use loadtest::generator::Aim;
use loadtest::now::Now;
use loadtest::recorder::Sum;
use loadtest::results::{Deed, KindRow};
use loadtest::run::{Ran, run};
use loadtest::scenario::Scenario;
use loadtest::stage::certificate::Certificate;
use loadtest::traffic::{Order, Targets};
use loadtest::upstream::{Identity, Ready, Upstream};
use rustls::RootCertStore;
use tempfile::TempDir;
use tokio::runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::LocalSet;
use tokio::time::Instant;

/// An upstream on a thread of its own; it ends when this is dropped.
pub(crate) struct Server {
    pub(crate) ready: Ready,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) certificate: Certificate,
    _folder: TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start() -> Server {
        let folder = TempDir::new().unwrap();
        let certificate = Certificate::create(folder.path(), "localhost").unwrap();
        let roots = Arc::new(certificate.roots());
        let identity = Identity { chain: certificate.chain.clone(), key: certificate.key.clone() };
        let (say, ready) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            block_on(async move {
                let any = SocketAddr::from(([127, 0, 0, 1], 0));
                let upstream = Upstream::bind(any, Some((any, identity))).await.unwrap();
                say.send(upstream.ready().unwrap()).unwrap();
                tokio::select! {
                    () = upstream.serve() => {}
                    _ = stopped => {}
                }
            });
        });
        let ready = ready.recv().unwrap();
        Server { ready, roots, certificate, _folder: folder, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn aim(&self) -> Aim {
        let targets =
            Targets { plain: Some(self.ready.plain), tls: self.ready.tls, name: "localhost".into() };
        Aim { targets, roots: Arc::clone(&self.roots) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.take();
        self.thread.take().unwrap().join().unwrap();
    }
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, future)
}

/// Waits until the load has ended.
pub(crate) async fn over(mut orders: watch::Receiver<Order>) {
    drop(orders.wait_for(|order| *order != Order::Go).await);
}

/// Applies a scenario that nobody disturbs.
pub(crate) fn apply(scenario: &Scenario, aim: &Aim) -> Ran {
    let (_interrupt, interrupted) = watch::channel(0);
    let nobody = |_now: Now, orders: watch::Receiver<Order>| async move {
        over(orders).await;
        Vec::new()
    };
    apply_to(scenario, aim, nobody, interrupted)
}

/// Applies a scenario, while somebody disturbs, until it is over or interrupted.
pub(crate) fn apply_to<D: Future<Output = Vec<Deed>>>(
    scenario: &Scenario,
    aim: &Aim,
    disturb: impl FnOnce(Now, watch::Receiver<Order>) -> D,
    interrupted: watch::Receiver<u32>,
) -> Ran {
    let now = Now::new(Instant::now());
    let ran = block_on(async { run(scenario, aim, now, disturb, interrupted, |_| ()).await });
    assert_eq!(ran.troubles, Vec::<String>::new());
    ran
}

pub(crate) fn rows(sum: &Sum, scenario: &Scenario) -> (Vec<KindRow>, KindRow) {
    let (rows, total, _) = sum.kinds(&scenario.traffic);
    (rows, total)
}
