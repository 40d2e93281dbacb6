//! Before the load: does the proxy answer, and is it the witness's upstream that answers through it?
//!
//! Load on a wrong address would be a million failures that say nothing about the proxy.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::content;
use crate::generator::Aim;
use crate::scenario::{Carrier, Scenario};
use crate::traffic::Connector;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many bytes are asked for, and of which body.
const LENGTH: usize = 64;
const SEED: u64 = 20_260;

/// What keeps load from being applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The scenario needs a port that is not known.
    #[error(
        "the scenario has {} and no address {port} is known; give {option} ADDRESS, or choose other kinds \
         with --shares", kinds.join(", ")
    )]
    NoTarget {
        /// Which kinds of traffic.
        kinds: Vec<String>,
        /// `with TLS` or `without TLS`.
        port: &'static str,
        /// How to name it.
        option: &'static str,
    },
    /// The witness cannot connect as it is set up.
    #[error("{0}; give another --name or --ca")]
    Setup(String),
    /// Nobody answers as expected.
    #[error("the proxy at {target} does not lead to the upstream of exuvia-loadtest: {cause}")]
    Answer {
        /// Who was asked.
        target: String,
        /// What came instead.
        cause: String,
    },
}

/// Asks once at each port that the scenario uses.
///
/// # Errors
///
/// What is missing or wrong, and how to mend it.
pub async fn probe(scenario: &Scenario, aim: &Aim) -> Result<(), Error> {
    let connector = Connector::new(aim.targets.clone(), &aim.roots).map_err(Error::Setup)?;
    let ports = [
        (false, aim.targets.plain, "without TLS", "--plain", Carrier::Http1),
        (true, aim.targets.tls, "with TLS", "--tls", Carrier::Http1Tls),
    ];
    for (tls, target, port, option, carrier) in ports {
        let users = scenario.traffic.iter().filter(|one| (one.carrier() != Carrier::Http1) == tls);
        let kinds: Vec<String> = users.map(|one| one.name.clone()).collect();
        if kinds.is_empty() {
            continue;
        }
        let Some(target) = target else { return Err(Error::NoTarget { kinds, port, option }) };
        let asked = timeout(PATIENCE, ask(&connector, carrier)).await;
        let asked = asked.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
        asked.map_err(|cause| Error::Answer { target: target.to_string(), cause })?;
    }
    Ok(())
}

async fn ask(connector: &Connector, carrier: Carrier) -> Result<(), String> {
    let connected = connector.connect(carrier).await.map_err(|failed| failed.detail)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(connected.stream))
        .await
        .map_err(|error| format!("no HTTP/1.1: {error}"))?;
    let request = Request::get(format!("/bytes?n={LENGTH}&seed={SEED}")).header("host", connector.name());
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let answer = async move {
        let answer = sender.send_request(request).await.map_err(|error| format!("no answer: {error}"))?;
        let status = answer.status();
        // Whatever it is, no more of it is needed.
        let body = Limited::new(answer.into_body(), LENGTH).collect().await;
        if status != StatusCode::OK {
            return Err(format!("it answered with {status}"));
        }
        let body = body.map_err(|error| format!("its answer is another one: {error}"))?.to_bytes();
        let same = body.len() == LENGTH && content::compare(SEED, 0, &body).is_ok();
        if same { Ok(()) } else { Err("its answer is another one".to_owned()) }
    };
    // The connection ends when the sender is gone; how, the answer says.
    let (answer, _) = tokio::join!(answer, connection);
    answer
}
