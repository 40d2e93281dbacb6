//! WebSockets: messages that come back, in sessions that are opened and closed as they should be.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::connect::{Stream, class_of_end};
use super::exchange::{Outcome, judged};
use super::{AFTER_FAILURE, Context, InFlight};
use crate::content;
use crate::plan::{Plan, Step};
use crate::recorder::Peer;
use crate::scenario::Traffic;
use crate::witness::{Class, Disturbance, Log, Unit, Wire};

/// How long the other end may take to answer a close.
const CLOSE: Duration = Duration::from_secs(2);

/// Opens session after session.
pub(super) async fn user(context: &Rc<Context>, traffic: &Traffic, kind: usize, plan: &mut Plan) {
    let mut lost = false;
    while let Some(step) = plan.next() {
        let Some(intended) = context.begin(step).await else { break };
        if std::mem::take(&mut lost) {
            context.recorder.disturbed(kind, Disturbance::Reconnect);
        }
        let in_flight = InFlight::new(context, kind, Unit::Tunnel, intended);
        match open(context, traffic, kind).await {
            Ok(mut session) => {
                let bytes_seen = session.log.read.get();
                let outcome = Outcome::failed(Class::Ok, Some(session.peer), String::new());
                in_flight.ended(Outcome { bytes_seen, ..outcome }, None);
                lost = session.run(plan, traffic.messages).await;
            }
            Err(outcome) => {
                in_flight.ended(outcome, None);
                context.rest(Instant::now() + AFTER_FAILURE).await;
            }
        }
    }
}

struct Session<'a> {
    context: &'a Context,
    kind: usize,
    socket: WebSocketStream<Wire<Box<dyn Stream>>>,
    log: Rc<Log>,
    peer: Peer,
    /// How many processes had become ready when it was opened.
    ready: u32,
    lost: bool,
}

async fn open<'a>(context: &'a Context, traffic: &Traffic, kind: usize) -> Result<Session<'a>, Outcome> {
    let deadline = Instant::now() + context.timeout;
    let connected = context.connect(kind, traffic.carrier(), deadline).await?;
    let peer = Peer { local_port: connected.local_port, connected: connected.at, reused: false };
    let ready = context.recorder.now().moment().ready;
    context.recorder.connected(ready);
    let log = Rc::new(Log::default());
    let wire = Wire::new(connected.stream, Rc::clone(&log), false);
    let url = format!("ws://{}/socket", context.connector.name());
    let opened = timeout_at(deadline, client_async(url, wire)).await;
    let failed = match opened {
        Ok(Ok((socket, _))) => return Ok(Session { context, kind, socket, log, peer, ready, lost: false }),
        Ok(Err(error)) => {
            let class = match &error {
                Error::Http(_) => Class::WrongStatus,
                _ => class_of(&log, log.read.get()),
            };
            Outcome { bytes_seen: log.read.get(), ..Outcome::failed(class, Some(peer), error.to_string()) }
        }
        Err(_) => {
            let detail = "the WebSocket was not open in the time allowed";
            Outcome::failed(Class::Timeout, Some(peer), detail.into())
        }
    };
    context.recorder.disconnected(kind, ready, log.end.get().is_some());
    Err(failed)
}

/// What an error means for an exchange of which `seen` bytes had come.
fn class_of(log: &Log, seen: u64) -> Class {
    log.end.get().map_or(Class::Malformed, |end| class_of_end(end, seen))
}

impl Session<'_> {
    /// Sends its messages, then closes; true if it was lost before.
    async fn run(&mut self, plan: &mut Plan, messages: u32) -> bool {
        for (number, step) in plan.take(messages as usize).enumerate() {
            let Some(intended) = self.rest(step).await else { break };
            let in_flight = InFlight::new(self.context, self.kind, Unit::Message, intended);
            self.peer.reused = number > 0;
            let outcome = self.echo(step).await;
            let goes_on = matches!(outcome.class, Class::Ok | Class::WrongBytes);
            self.lost |= !goes_on && outcome.class != Class::Timeout;
            in_flight.ended(outcome, None);
            if !goes_on {
                break;
            }
        }
        if self.lost {
            self.context.recorder.disturbed(self.kind, Disturbance::LostWebSocket);
        } else {
            self.close().await;
        }
        self.lost
    }

    /// Waits for a step's time; nothing if the socket was lost meanwhile, or the load has ended.
    async fn rest(&mut self, step: Step) -> Option<Instant> {
        let context = self.context;
        let mut rest = std::pin::pin!(context.begin(step));
        loop {
            tokio::select! {
                biased;
                intended = &mut rest => return intended,
                message = self.socket.next() => match message {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    _ => {
                        self.lost = true;
                        return None;
                    }
                },
            }
        }
    }

    /// Sends a message and compares what comes back.
    async fn echo(&mut self, step: Step) -> Outcome {
        let mut message = Vec::with_capacity(step.bytes);
        content::pieces(step.seed, step.bytes as u64).for_each(|piece| message.extend_from_slice(piece));
        let before = self.log.read.get();
        let deadline = Instant::now() + self.context.timeout;
        let echoed = timeout_at(deadline, async {
            self.socket.send(Message::Binary(Bytes::from(message))).await?;
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(message)) => return Ok(message),
                    Some(Err(error)) => return Err(error),
                    None => return Err(Error::ConnectionClosed),
                }
            }
        });
        let (class, detail, bytes_in) = match echoed.await {
            Ok(Ok(Message::Binary(echo))) => {
                let wrong = content::compare(step.seed, 0, &echo).err();
                let (class, detail) = judged(wrong, echo.len() as u64, step.bytes as u64);
                (class, detail, echo.len())
            }
            Ok(Ok(Message::Close(frame))) => {
                let why = frame.map_or_else(|| "without a reason".into(), |frame| frame.to_string());
                (Class::ClosedBeforeAnswer, format!("the WebSocket was closed: {why}"), 0)
            }
            Ok(Ok(_)) => (Class::WrongBytes, "a message of another type".into(), 0),
            Ok(Err(error)) => (class_of(&self.log, self.log.read.get() - before), error.to_string(), 0),
            Err(_) => (Class::Timeout, "no echo in the time allowed".into(), 0),
        };
        let bytes_seen = self.log.read.get() - before;
        let (bytes_in, bytes_out) = (bytes_in as u64, step.bytes as u64);
        Outcome { class, peer: Some(self.peer), bytes_seen, bytes_in, bytes_out, detail }
    }

    /// Says goodbye and waits for the answer, as RFC 6455, section 7.1.2, has it.
    async fn close(&mut self) {
        let closing = async {
            if self.socket.close(None).await.is_ok() {
                while let Some(Ok(_)) = self.socket.next().await {}
            }
        };
        // Without an answer it is closed all the same.
        drop(timeout(CLOSE, closing).await);
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.context.recorder.disconnected(self.kind, self.ready, self.lost);
    }
}
