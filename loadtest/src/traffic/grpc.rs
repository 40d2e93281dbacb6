//! gRPC calls with messages both ways: each message comes back, and the call ends with status 0.
//!
//! It is gRPC as it is on the wire (its PROTOCOL-HTTP2 document): messages with five bytes before them, and a status in the
//! trailers. What is in the messages does not matter to a proxy.

use std::rc::Rc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, timeout_at};

use super::body::{Feed, Sent};
use super::connection::{Connection, Slot, UnderWay, describe};
use super::exchange::{Outcome, judged, unsent};
use super::{AFTER_FAILURE, Context, InFlight};
use crate::content;
use crate::plan::{Plan, Step};
use crate::recorder::Peer;
use crate::scenario::Traffic;
use crate::witness::{Class, Unit};

/// A message's flag and length.
const PREFIX: usize = 5;

/// Makes call after call.
pub(super) async fn user(context: &Rc<Context>, traffic: &Traffic, slot: &Slot, plan: &mut Plan) {
    while let Some(step) = plan.next() {
        let Some(intended) = context.begin(step).await else { break };
        let in_flight = InFlight::new(context, slot.kind(), Unit::Stream, intended);
        let outcome = call(context, traffic, slot, step, intended, plan).await;
        if !in_flight.ended(outcome, None) {
            context.rest(Instant::now() + AFTER_FAILURE).await;
        }
    }
}

/// One call. Its first message is the step's; the others are drawn from the plan.
async fn call(
    context: &Rc<Context>,
    traffic: &Traffic,
    slot: &Slot,
    first: Step,
    intended: Instant,
    plan: &mut Plan,
) -> Outcome {
    let mut call = match begin(context, traffic, slot).await {
        Ok(call) => call,
        Err(outcome) => return outcome,
    };
    let mut next = Some((first, intended));
    for _ in 0..traffic.messages {
        let (step, intended) = match next.take() {
            Some(first) => first,
            None => {
                let Some(step) = plan.next() else { break };
                match call.rest(context, step).await {
                    Ok(Some(intended)) => (step, intended),
                    Ok(None) => break,
                    Err(broken) => return call.outcome(broken),
                }
            }
        };
        let in_flight = InFlight::new(context, slot.kind(), Unit::Message, intended);
        let mut echoed = call.echo(context, step).await;
        let give_up = Instant::now() + context.timeout;
        while call.unsent {
            if Instant::now() >= give_up {
                let outcome = Outcome::failed(
                    Class::Timeout,
                    Some(call.peer),
                    "no connection lasted until the call could begin".into(),
                );
                in_flight.ended(outcome.clone(), None);
                return outcome;
            }
            // As with a request: what has not begun is begun on another connection.
            call = match restart(context, traffic, slot, &call).await {
                Ok(call) => call,
                Err(outcome) => {
                    in_flight.ended(outcome.clone(), None);
                    return outcome;
                }
            };
            echoed = call.echo(context, step).await;
        }
        let (outcome, broken) = match echoed {
            Ok(verdict) => (call.message(step, verdict), None),
            Err(broken) => (call.message(step, broken.clone()), Some(broken)),
        };
        in_flight.ended(outcome, None);
        if let Some(broken) = broken {
            return call.outcome(broken);
        }
    }
    let verdict = call.finish(context).await;
    call.outcome(verdict)
}

/// A class, and what was seen.
type Verdict = (Class, String);

struct Call {
    connection: Rc<Connection>,
    under_way: UnderWay,
    peer: Peer,
    feed: Option<UnboundedSender<Bytes>>,
    answer: Answer,
    /// What has come of the message that is on its way.
    received: BytesMut,
    trailers: Option<HeaderMap>,
    /// The connection was over before anything of the call was sent.
    unsent: bool,
    bytes_in: u64,
    bytes_out: u64,
}

/// Whether nothing of the call was sent, and what happened.
type NoHead = (bool, hyper::Error);

enum Answer {
    /// The head has not come.
    Awaited(std::pin::Pin<Box<dyn Future<Output = Result<http::Response<Incoming>, NoHead>>>>),
    Body(Incoming),
}

/// Makes the request of a call: on a connection that was not over before it was sent.
async fn begin(context: &Rc<Context>, traffic: &Traffic, slot: &Slot) -> Result<Call, Outcome> {
    let deadline = Instant::now() + context.timeout;
    loop {
        let connection = slot.get(context, deadline).await?;
        let peer = connection.peer();
        match timeout_at(deadline, connection.ready()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => match unsent(context, slot, &connection, peer) {
                Some(outcome) => return Err(outcome),
                None => continue,
            },
            Err(_) => {
                let detail = "the connection was not free in the time allowed".into();
                return Err(Outcome::failed(Class::Timeout, Some(peer), detail));
            }
        }
        let (feed, body) = Feed::new();
        let request = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(format!("https://{}/exuvia.loadtest.Echo/Call", context.connector.name()))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .body(Sent::Right(body))
            .map_err(|error| Outcome::failed(Class::Local, Some(peer), error.to_string()))?;
        let under_way = connection.begin(traffic.carrier());
        let sent = connection.send(request);
        let answer = Answer::Awaited(Box::pin(async move {
            sent.await.map_err(|mut error| (error.take_message().is_some(), error.into_error()))
        }));
        return Ok(Call {
            connection,
            under_way,
            peer,
            feed: Some(feed),
            answer,
            received: BytesMut::new(),
            trailers: None,
            unsent: false,
            bytes_in: 0,
            bytes_out: 0,
        });
    }
}

/// Makes the request once more, if the connection had ended at rest before anything of it was sent.
async fn restart(
    context: &Rc<Context>,
    traffic: &Traffic,
    slot: &Slot,
    call: &Call,
) -> Result<Call, Outcome> {
    match unsent(context, slot, &call.connection, call.peer) {
        Some(outcome) => Err(outcome),
        None => begin(context, traffic, slot).await,
    }
}

impl Call {
    /// Waits for a step's time; nothing if the load has ended; what broke the call, if it ended meanwhile.
    async fn rest(&mut self, context: &Context, step: Step) -> Result<Option<Instant>, Verdict> {
        let mut rest = std::pin::pin!(context.begin(step));
        tokio::select! {
            biased;
            intended = &mut rest => Ok(intended),
            more = self.more() => match more {
                Err(broken) => Err(broken),
                Ok(true) => Err((Class::WrongBytes, "a message that nobody had asked for".into())),
                Ok(false) => Err(self.ended_early()),
            },
        }
    }

    /// Sends a message and compares what comes back: the class of the message, or what broke the call.
    async fn echo(&mut self, context: &Context, step: Step) -> Result<Verdict, Verdict> {
        let mut message = BytesMut::with_capacity(PREFIX + step.bytes);
        message.put_u8(0);
        message.put_u32(u32::try_from(step.bytes).unwrap_or(u32::MAX));
        content::pieces(step.seed, step.bytes as u64).for_each(|piece| message.extend_from_slice(piece));
        self.bytes_out += step.bytes as u64;
        if let Some(feed) = &self.feed {
            // If the stream is gone, its body or its head says why.
            drop(feed.send(message.freeze()));
        }
        let deadline = Instant::now() + context.timeout;
        let echoed = timeout_at(deadline, async {
            while self.received.len() < PREFIX + step.bytes {
                if !self.more().await? {
                    return Err(self.ended_early());
                }
            }
            Ok(())
        });
        match echoed.await {
            Ok(Ok(())) => {}
            Ok(Err(broken)) => return Err(broken),
            Err(_) => return Err((Class::Timeout, "no echo in the time allowed".into())),
        }
        let mut prefix = self.received.split_to(PREFIX);
        let (flag, length) = (prefix.get_u8(), prefix.get_u32() as usize);
        if flag != 0 || length != step.bytes {
            return Err((
                Class::WrongBytes,
                format!("a message of {length} bytes instead of {}", step.bytes),
            ));
        }
        let echo = self.received.split_to(step.bytes);
        self.bytes_in += step.bytes as u64;
        Ok(judged(content::compare(step.seed, 0, &echo).err(), echo.len() as u64, step.bytes as u64))
    }

    /// Ends our side and waits for the status.
    async fn finish(&mut self, context: &Context) -> Verdict {
        self.feed = None;
        let deadline = Instant::now() + context.timeout;
        match timeout_at(deadline, self.more()).await {
            Err(_) => (Class::Timeout, "no status in the time allowed".into()),
            Ok(Err(broken)) => broken,
            Ok(Ok(true)) => (Class::WrongBytes, "a message that nobody had asked for".into()),
            Ok(Ok(false)) => match self.status() {
                Some(status) if status == "0" => (Class::Ok, String::new()),
                Some(status) => (Class::WrongStatus, format!("grpc-status {status}")),
                None => self.ended_early(),
            },
        }
    }

    fn status(&self) -> Option<String> {
        let status = self.trailers.as_ref()?.get("grpc-status")?;
        Some(String::from_utf8_lossy(status.as_bytes()).into_owned())
    }

    fn ended_early(&self) -> Verdict {
        match self.status() {
            Some(status) => (Class::WrongStatus, format!("the call ended early with grpc-status {status}")),
            // hyper takes a stream that is reset without an error, or cancelled, for one that has ended.
            None if self.was_reset() => (Class::Reset, "the stream was reset".into()),
            None => (Class::ClosedInAnswer, "the stream ended without a status".into()),
        }
    }

    fn was_reset(&self) -> bool {
        self.under_way.stream.is_some_and(|stream| self.connection.state.log.frames.was_reset(stream))
    }

    /// Waits for more of the answer: false if that was all.
    async fn more(&mut self) -> Result<bool, Verdict> {
        if let Answer::Awaited(head) = &mut self.answer {
            let response = match head.await {
                Ok(response) => response,
                Err((true, error)) => {
                    self.unsent = true;
                    return Err((Class::ClosedBeforeAnswer, describe(&error)));
                }
                Err((false, error)) => return Err(self.broken(&error)),
            };
            self.connection.state.served.set(true);
            let status = response.status();
            if status != StatusCode::OK {
                return Err((Class::WrongStatus, status.to_string()));
            }
            // A call that is over at once has its status in the head.
            if response.headers().contains_key("grpc-status") {
                self.trailers = Some(response.headers().clone());
            }
            self.answer = Answer::Body(response.into_body());
        }
        let Answer::Body(body) = &mut self.answer else { return Ok(false) };
        loop {
            let frame = match body.frame().await {
                None => return Ok(false),
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Err(self.broken(&error)),
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    self.received.extend_from_slice(&data);
                    return Ok(true);
                }
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            }
        }
    }

    fn broken(&self, error: &hyper::Error) -> Verdict {
        let class = self.connection.state.class_of(error, self.under_way.stream, self.received.len() as u64);
        (class, describe(error))
    }

    /// How the whole call went, if that is how its last part did.
    fn outcome(&self, (class, detail): Verdict) -> Outcome {
        let head = u64::from(matches!(self.answer, Answer::Body(_)));
        let bytes_seen = head + self.bytes_in + self.received.len() as u64;
        let class = match class {
            // Of the message. Of the call there was an answer.
            Class::ClosedBeforeAnswer if bytes_seen > 0 => Class::ClosedInAnswer,
            class => class,
        };
        // Its messages have counted their bytes.
        Outcome { class, peer: Some(self.peer), bytes_seen, bytes_in: 0, bytes_out: 0, detail }
    }

    fn message(&self, step: Step, (class, detail): Verdict) -> Outcome {
        let bytes_in = if class == Class::Ok { step.bytes as u64 } else { 0 };
        let bytes_seen = self.received.len() as u64 + bytes_in;
        Outcome { class, peer: Some(self.peer), bytes_seen, bytes_in, bytes_out: step.bytes as u64, detail }
    }
}
