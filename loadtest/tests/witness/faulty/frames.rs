//! HTTP/2, passed on frame by frame (RFC 9113, sections 4.1 and 6).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::socket::{Client, Pieces, Then, pass};
use super::{Book, How, Meddle, What};

const PREFACE: usize = 24;
const HEADER: usize = 9;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    pub(crate) const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    const ACK: u8 = 1;

    fn parse(bytes: &[u8]) -> Frame {
        let stream = u32::from_be_bytes([bytes[5] & 0x7f, bytes[6], bytes[7], bytes[8]]);
        Frame { kind: bytes[3], flags: bytes[4], stream, payload: bytes[HEADER..].to_vec() }
    }

    fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let head = [length[1], length[2], length[3], self.kind, self.flags];
        [&head, &self.stream.to_be_bytes()[..], &self.payload].concat()
    }

    pub(crate) fn reset(stream: u32, reason: h2::Reason) -> Frame {
        let payload = u32::from(reason).to_be_bytes().to_vec();
        Frame { kind: Frame::RST_STREAM, flags: 0, stream, payload }
    }

    pub(crate) fn goaway(last: u32, reason: h2::Reason) -> Frame {
        let payload = [last.to_be_bytes(), u32::from(reason).to_be_bytes()].concat();
        Frame { kind: Frame::GOAWAY, flags: 0, stream: 0, payload }
    }

    /// Fields whose names and values are short, in the clear and in no table (RFC 7541, section 6.2.2); nothing behind
    /// them.
    pub(crate) fn fields(stream: u32, fields: &[(&str, &str)]) -> Frame {
        let mut payload = Vec::new();
        for (name, value) in fields {
            payload.push(0);
            for text in [name, value] {
                payload.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).unwrap());
                payload.extend_from_slice(text.as_bytes());
            }
        }
        Frame { kind: Frame::HEADERS, flags: Frame::END_STREAM | Frame::END_HEADERS, stream, payload }
    }

    pub(crate) fn ends(&self) -> bool {
        self.flags & Frame::END_STREAM != 0
    }

    /// The length of the first frame, if it is whole.
    fn length(bytes: &[u8]) -> Option<usize> {
        let [a, b, c, ..] = *bytes else { return None };
        let length = HEADER + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
        (bytes.len() >= length).then_some(length)
    }
}

/// From where a frame comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Client,
    Server,
}

/// A frame of a stream in which a fault is to be planted.
pub(crate) struct Passing<'a> {
    pub(crate) from: Side,
    pub(crate) frame: &'a Frame,
    /// How many bytes of body have come from that side, in that stream.
    pub(crate) before: usize,
}

/// What is done to it.
pub(crate) enum Act {
    /// Nothing.
    Pass,
    /// Another goes in its place.
    Change(Frame),
    /// Others go to the client before it.
    Before(Vec<Frame>),
    /// Others go to the client in its place, and nothing of the stream passes any more.
    End(Vec<Frame>),
    /// It is held back until so many are; then comes the finale.
    Hold(usize, Finale),
    /// Others go to the client in its place, and the connection ends.
    Last(Vec<Frame>, Then),
}

/// What happens when all are held.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Finale {
    /// The connection ends.
    Cut(Then),
    /// A GOAWAY drops so many of the newest, and the others go on.
    GoAway(usize),
}

/// What is known of the streams of a connection.
#[derive(Default)]
struct Streams {
    newest: u32,
    faulty: BTreeMap<u32, Meddle>,
    planted: BTreeSet<u32>,
    ended: BTreeSet<u32>,
    held: Vec<Frame>,
    bodies: BTreeMap<(u32, Side), usize>,
}

impl Streams {
    fn act(&mut self, from: Side, frame: &Frame, book: &Book) -> Act {
        if from == Side::Client && frame.kind == Frame::HEADERS && frame.stream > self.newest {
            self.newest = frame.stream;
            if let Some(How::Frames(meddle)) = book.next(What::Stream) {
                self.faulty.insert(frame.stream, meddle);
            }
        }
        if self.ended.contains(&frame.stream) {
            return Act::End(Vec::new());
        }
        let Some(meddle) = self.faulty.get(&frame.stream) else { return Act::Pass };
        let body = self.bodies.entry((frame.stream, from)).or_default();
        let act = meddle(&Passing { from, frame, before: *body });
        if frame.kind == Frame::DATA {
            *body += frame.payload.len();
        }
        act
    }
}

/// Serves a client until it goes; gives back how its connection is to end.
pub(super) async fn serve<C: Client>(client: &mut C, port: u16, book: &Book, upstream: SocketAddr) -> Then {
    let mut server = TcpStream::connect(upstream).await.unwrap();
    server.set_nodelay(true).unwrap();
    let (mut asked, mut answered) = (Pieces::default(), Pieces::default());
    let preface = asked.next(client, |bytes| (bytes.len() >= PREFACE).then_some(PREFACE)).await;
    let Some(preface) = preface else { return Then::Close };
    if !pass(&mut server, &preface).await {
        return Then::Close;
    }
    let mut streams = Streams::default();
    loop {
        let (from, bytes) = tokio::select! {
            bytes = asked.next(client, Frame::length) => (Side::Client, bytes),
            bytes = answered.next(&mut server, Frame::length) => (Side::Server, bytes),
        };
        let Some(bytes) = bytes else { return Then::Close };
        let mut frame = Frame::parse(&bytes);
        if from == Side::Client && frame.kind == Frame::SETTINGS && frame.flags & Frame::ACK == 0 {
            // SETTINGS_HEADER_TABLE_SIZE = 0: a head that is not passed on must not be missed in a table.
            frame.payload.extend_from_slice(&[0, 1, 0, 0, 0, 0]);
        }
        let act = streams.act(from, &frame, book);
        let done = !matches!(act, Act::Pass | Act::Hold(..));
        if done && !streams.ended.contains(&frame.stream) && streams.planted.insert(frame.stream) {
            book.plant(port, 0);
        }
        let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
        let mut then = Then::GoOn;
        let onward = if from == Side::Client { &mut to_server } else { &mut to_client };
        match act {
            Act::Pass => onward.push(frame),
            Act::Change(other) => onward.push(other),
            Act::Before(others) => {
                onward.push(frame);
                to_client.splice(0..0, others);
            }
            Act::End(others) => {
                streams.ended.insert(frame.stream);
                to_client = others;
            }
            Act::Last(others, end) => {
                to_client = others;
                then = end;
            }
            Act::Hold(count, finale) => {
                streams.held.push(frame);
                if streams.held.len() == count {
                    match finale {
                        Finale::Cut(end) => {
                            (0..count).for_each(|_| book.plant(port, 0));
                            then = end;
                        }
                        Finale::GoAway(dropped) => {
                            to_server = std::mem::take(&mut streams.held);
                            let lost = to_server.split_off(count - dropped);
                            lost.iter().for_each(|_| book.plant(port, 0));
                            streams.ended.extend(lost.iter().map(|frame| frame.stream));
                            let last = to_server.last().map_or(0, |frame| frame.stream);
                            to_client.push(Frame::goaway(last, h2::Reason::NO_ERROR));
                            // What was held goes on, and is not asked about again.
                            to_server
                                .iter()
                                .for_each(|frame| streams.faulty.retain(|stream, _| *stream != frame.stream));
                        }
                    }
                }
            }
        }
        let bytes = |frames: &[Frame]| frames.iter().flat_map(Frame::bytes).collect::<Vec<_>>();
        if !pass(client, &bytes(&to_client)).await || !pass(&mut server, &bytes(&to_server)).await {
            return Then::Close;
        }
        if then != Then::GoOn {
            return then;
        }
    }
}
