//! One request and its answer, judged by what was seen on the wire.

use std::rc::Rc;
use std::time::Duration;

use http::header::{CONNECTION, HOST};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::body::Sent;
use super::connect::NotConnected;
use super::connection::{Connection, Slot, describe};
use super::{Context, InFlight};
use crate::content::{self, Content};
use crate::plan::Step;
use crate::recorder::Peer;
use crate::scenario::{Carrier, Kind, Traffic};
use crate::upstream::summed;
use crate::witness::{Class, Disturbance, Unit};

/// How many pieces a slow body is sent in.
const PIECES: u64 = 30;

/// What is asked for: it can be made into a request again and again.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) traffic: &'a Traffic,
    pub(super) step: Step,
}

/// How an exchange went.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) class: Class,
    pub(super) peer: Option<Peer>,
    pub(super) bytes_seen: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) detail: String,
}

impl Outcome {
    pub(super) fn failed(class: Class, peer: Option<Peer>, detail: String) -> Outcome {
        Outcome { class, peer, bytes_seen: 0, bytes_in: 0, bytes_out: 0, detail }
    }

    /// Whether a browser would send it once more: a connection that had been used and ended without a byte of the
    /// answer may have been closed before the request came, if asking twice does no harm (RFC 9110, 9.2.2); a refused
    /// stream was not looked at (RFC 9113, 8.7). A stream that was reset on a connection that goes on was.
    fn browser_tries_again(&self, method: &Method, connection: &Connection) -> bool {
        let reused = self.peer.is_some_and(|peer| peer.reused);
        let ended = connection.state.log.end.get().is_some();
        let unanswered =
            matches!(self.class, Class::ClosedBeforeAnswer | Class::Reset) && self.bytes_seen == 0;
        (unanswered && ended && reused && method.is_idempotent()) || self.class == Class::RefusedStream
    }
}

impl From<NotConnected> for Outcome {
    fn from(failed: NotConnected) -> Outcome {
        Outcome::failed(failed.class, failed.peer, failed.detail)
    }
}

impl Ask<'_> {
    fn method(&self) -> Method {
        if self.traffic.kind == Kind::Upload { Method::POST } else { Method::GET }
    }

    fn length(&self) -> u64 {
        self.step.bytes as u64
    }

    fn path(&self) -> String {
        let (n, seed, ms) = (self.length(), self.step.seed, self.traffic.lasts.as_millis());
        match self.traffic.kind {
            Kind::Upload => "/sum".into(),
            Kind::Streamed => format!("/stream?n={n}&seed={seed}&pieces={PIECES}&ms={ms}"),
            _ => format!("/bytes?n={n}&seed={seed}"),
        }
    }

    fn body(&self) -> Content {
        match self.traffic.kind {
            Kind::Upload => Content::new(self.step.seed, self.length()).paced(self.traffic.lasts, PIECES),
            _ => Content::empty(),
        }
    }

    /// The request, as HTTP/1 or HTTP/2 wants it.
    fn request(&self, name: &str) -> Result<Request<Sent>, http::Error> {
        let request = Request::builder().method(self.method());
        let request = if self.traffic.carrier() == Carrier::Http2 {
            request.version(Version::HTTP_2).uri(format!("https://{name}{}", self.path()))
        } else {
            request.uri(self.path()).header(HOST, name)
        };
        let request = match self.traffic.kind {
            Kind::Http1New => request.header(CONNECTION, "close"),
            _ => request,
        };
        request.body(Sent::Left(self.body()))
    }

    /// How long it lasts if all goes well.
    pub(super) fn lasts(&self) -> Duration {
        self.traffic.lasts
    }
}

/// Asks once, on the slot's connection or a new one, and if it fails as a browser would not let it, once more beside it.
/// Gives back whether it went well.
pub(super) async fn exchange(
    context: &Rc<Context>,
    slot: &Slot,
    ask: Ask<'_>,
    unit: Unit,
    intended: Instant,
) -> bool {
    let in_flight = InFlight::new(context, slot.kind(), unit, intended);
    let (outcome, again) = once(context, slot, ask).await;
    let mut second = None;
    if again {
        let other = Slot::new(slot.kind(), ask.traffic.carrier());
        second = Some(once(&context.aside(), &other, ask).await.0.class);
        other.close();
    }
    in_flight.ended(outcome, second)
}

/// Asks once; beside how it went, whether a browser would ask once more.
async fn once(context: &Rc<Context>, slot: &Slot, ask: Ask<'_>) -> (Outcome, bool) {
    let deadline = Instant::now() + context.timeout + ask.lasts();
    loop {
        let connection = match slot.get(context, deadline).await {
            Ok(connection) => connection,
            Err(failed) => return (failed.into(), false),
        };
        let asked = on(context, slot, &connection, ask, deadline).await;
        if ask.traffic.kind == Kind::Http1New {
            slot.close();
        }
        if let Some(outcome) = asked {
            let again = outcome.browser_tries_again(&ask.method(), &connection);
            return (outcome, again);
        }
        // Nothing of the request was sent, because the connection had ended at rest: the request has not begun. To begin
        // it on another connection is not to send it again.
    }
}

/// Asks on a connection; nothing if the connection turned out to have ended at rest, before a byte of the request was
/// sent.
async fn on(
    context: &Rc<Context>,
    slot: &Slot,
    connection: &Rc<Connection>,
    ask: Ask<'_>,
    deadline: Instant,
) -> Option<Outcome> {
    let (state, peer) = (&connection.state, connection.peer());
    match timeout_at(deadline, connection.ready()).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return unsent(context, slot, connection, peer),
        Err(_) => {
            // What was asked before is still being sent.
            slot.close();
            let detail = "the connection was not free in the time allowed".into();
            return Some(Outcome::failed(Class::Timeout, Some(peer), detail));
        }
    }
    let request = match ask.request(context.connector.name()) {
        Ok(request) => request,
        Err(error) => return Some(Outcome::failed(Class::Local, Some(peer), error.to_string())),
    };
    let under_way = connection.begin(ask.traffic.carrier());
    let mut seen = Seen::new(connection, ask, under_way.stream);
    let answered = timeout_at(deadline, async {
        let response = connection.send(request).await.map_err(|mut error| {
            let unsent = error.take_message().is_some()
                && (seen.stream.is_some() || state.log.written.get() == seen.written_before);
            Broken { unsent, error: error.into_error() }
        })?;
        seen.read(context, slot, connection, response).await.map_err(|error| Broken { unsent: false, error })
    });
    let outcome = match answered.await {
        Ok(Ok((class, detail))) => {
            state.served.set(true);
            seen.outcome(connection, class, peer, detail)
        }
        Ok(Err(Broken { unsent: true, .. })) => return unsent(context, slot, connection, peer),
        Ok(Err(Broken { error, .. })) => seen.broken(connection, peer, &error),
        Err(_) => {
            // On HTTP/1 nothing else can be asked behind it.
            slot.close();
            seen.outcome(connection, Class::Timeout, peer, "no whole answer in the time allowed".into())
        }
    };
    Some(outcome)
}

/// The connection was over before a byte of the request was sent: nothing if it had been at rest, a failure if it was
/// made for this.
pub(super) fn unsent(
    context: &Context,
    slot: &Slot,
    connection: &Rc<Connection>,
    peer: Peer,
) -> Option<Outcome> {
    let class = connection.state.class_of_unsent();
    slot.gone(context, connection);
    let detail = || "the connection ended before it could be used".into();
    class.map(|class| Outcome::failed(class, Some(peer), detail()))
}

struct Broken {
    unsent: bool,
    error: hyper::Error,
}

/// What has been seen of an answer.
struct Seen<'a> {
    ask: Ask<'a>,
    stream: Option<u32>,
    read_before: u64,
    written_before: u64,
    head: bool,
    body: u64,
}

impl<'a> Seen<'a> {
    fn new(connection: &Connection, ask: Ask<'a>, stream: Option<u32>) -> Seen<'a> {
        let log = &connection.state.log;
        Seen {
            ask,
            stream,
            read_before: log.read.get(),
            written_before: log.written.get(),
            head: false,
            body: 0,
        }
    }

    /// Reads an answer and compares it.
    async fn read(
        &mut self,
        context: &Context,
        slot: &Slot,
        connection: &Connection,
        response: Response<Incoming>,
    ) -> Result<(Class, String), hyper::Error> {
        self.head = true;
        let asked_to_close = self.ask.traffic.kind == Kind::Http1New;
        if self.stream.is_none()
            && !asked_to_close
            && says_close(&response)
            && !connection.state.announced.replace(true)
        {
            context.recorder.disturbed(slot.kind(), Disturbance::AnnouncedClose);
        }
        let status = response.status();
        let mut body = response.into_body();
        let begun = Instant::now();
        let mut wrong = None;
        let mut text = Vec::new();
        let slow = self.ask.traffic.kind == Kind::Download;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if status != StatusCode::OK || self.ask.traffic.kind == Kind::Upload {
                text.extend_from_slice(&data[..data.len().min(1000 - text.len().min(1000))]);
            } else if wrong.is_none() {
                wrong = content::compare(self.ask.step.seed, self.body, &data).err();
            }
            self.body += data.len() as u64;
            if slow {
                sleep_until(begun + content::share(self.ask.lasts(), self.body, self.ask.length())).await;
            }
        }
        // hyper takes a stream that is reset without an error, or cancelled, for one that has ended.
        let reset = |stream| connection.state.log.frames.was_reset(stream);
        if status == StatusCode::OK && wrong.is_none() && self.stream.is_some_and(reset) {
            return Ok((Class::Reset, format!("the stream was reset after {} bytes", self.body)));
        }
        Ok(self.judge(status, wrong, &text))
    }

    fn judge(&self, status: StatusCode, wrong: Option<u64>, text: &[u8]) -> (Class, String) {
        if status != StatusCode::OK {
            let text = String::from_utf8_lossy(text);
            return (Class::WrongStatus, format!("{status}: {}", text.trim()));
        }
        if self.ask.traffic.kind == Kind::Upload {
            let length = self.ask.length();
            let expected = summed(content::checksum(self.ask.step.seed, length), length);
            if text == expected.as_bytes() {
                return (Class::Ok, String::new());
            }
            let text = String::from_utf8_lossy(text);
            return (
                Class::WrongBytes,
                format!("sent {:?}, the server had {:?}", expected.trim(), text.trim()),
            );
        }
        judged(wrong, self.body, self.ask.length())
    }

    fn bytes_seen(&self, connection: &Connection) -> u64 {
        match self.stream {
            None => connection.state.log.read.get() - self.read_before,
            // Other streams' bytes are on the same wire: the head counts as one.
            Some(_) => u64::from(self.head) + self.body,
        }
    }

    fn outcome(&self, connection: &Connection, class: Class, peer: Peer, detail: String) -> Outcome {
        let bytes_out = if self.ask.traffic.kind == Kind::Upload { self.ask.length() } else { 0 };
        let bytes_seen = self.bytes_seen(connection);
        Outcome { class, peer: Some(peer), bytes_seen, bytes_in: self.body, bytes_out, detail }
    }

    /// The answer did not come to its end.
    fn broken(&self, connection: &Connection, peer: Peer, error: &hyper::Error) -> Outcome {
        let class = connection.state.class_of(error, self.stream, self.bytes_seen(connection));
        self.outcome(connection, class, peer, describe(error))
    }
}

/// What a body or message of known bytes is worth: `wrong` is the first byte that was another, `got` how many came.
pub(super) fn judged(wrong: Option<u64>, got: u64, length: u64) -> (Class, String) {
    match wrong {
        Some(at) if at < length => (Class::WrongBytes, format!("another byte at {at} of {length}")),
        _ if got != length => (Class::WrongBytes, format!("{got} bytes instead of {length}")),
        _ => (Class::Ok, String::new()),
    }
}

fn says_close(response: &Response<Incoming>) -> bool {
    let values = response.headers().get_all(CONNECTION);
    let close = |value: &http::HeaderValue| {
        value
            .to_str()
            .is_ok_and(|value| value.split(',').any(|word| word.trim().eq_ignore_ascii_case("close")))
    };
    values.iter().any(close) || response.version() == Version::HTTP_10
}
