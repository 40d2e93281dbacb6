//! A built-in upstream to try things with: it shows what it was asked, and answers slowly, at length or with a
//! given status when told to. It runs on a thread of its own, on a port that the kernel chooses, and serves
//! until the process ends, so that it answers for as long as the process drains.

mod body;
mod pages;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::thread;

use http::header::{HeaderName, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Duration, sleep};

use body::Body;

const X_EXUVIA_GENERATION: HeaderName = HeaderName::from_static("x-exuvia-generation");
const X_EXUVIA_PID: HeaderName = HeaderName::from_static("x-exuvia-pid");

/// The pause after an accept that failed; the next would most likely fail too.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);

/// What the demonstration says of the process that it is part of.
#[derive(Clone, Debug)]
pub struct DemoInfo {
    /// The process's generation.
    pub generation: u64,
    /// Its process id.
    pub pid: u32,
    /// Its version.
    pub version: String,
}

/// A demonstration upstream that runs.
#[derive(Debug)]
pub struct Demo {
    address: SocketAddr,
}

impl Demo {
    /// Starts it, on a thread that ends with the process.
    pub fn start(info: DemoInfo) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("demo".into()).spawn(move || {
            if let Err(error) = run(&runtime, listener, info) {
                tracing::error!(%error, "the demonstration upstream could not begin");
            }
        })?;
        Ok(Demo { address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn run(runtime: &Runtime, listener: std::net::TcpListener, info: DemoInfo) -> io::Result<()> {
    LocalSet::new().block_on(runtime, async move {
        let listener = TcpListener::from_std(listener)?;
        let info = Rc::new(info);
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the demonstration upstream cannot accept");
                    sleep(ACCEPT_BACK_OFF).await;
                    continue;
                }
            };
            let info = info.clone();
            spawn_local(async move {
                let service = service_fn(|request| answer(&info, request));
                let served = stream
                    .set_nodelay(true)
                    .is_ok()
                    .then(|| http1::Builder::new().serve_connection(TokioIo::new(stream), service));
                if let Some(connection) = served
                    && let Err(error) = connection.await
                {
                    tracing::trace!(%error, "a connection to the demonstration upstream ended");
                }
            });
        }
    })
}

async fn answer(
    info: &DemoInfo,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::convert::Infallible> {
    let mut response = pages::answer(info, request).await;
    let headers = response.headers_mut();
    headers.insert(X_EXUVIA_GENERATION, info.generation.into());
    headers.insert(X_EXUVIA_PID, HeaderValue::from(info.pid));
    Ok(response)
}

#[cfg(test)]
mod tests;
