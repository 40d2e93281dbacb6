//! Counts the frames of a connection as their bytes pass by, and says when there are too many of a kind.
//!
//! h2 answers a PING, applies SETTINGS and drops what it does not know without a word to anyone, and it tells
//! nobody how often it has reset a stream for an error of the client's. All of that costs us more than the client.
//! Nothing but the nine bytes of each frame's head (RFC 9113, section 4.1) is looked at, the code of a RST_STREAM, and
//! trailers; other payloads are skipped.
//!
//! What comes with work is no flood: a stream that ends in order pays for a reset and for a few frames, a DATA frame
//! for the PING with which its receiver measures the way, and for the WINDOW_UPDATEs that make room for it.

use std::time::Duration;

use tokio::time::Instant;

use super::trailers::Trailers;
use super::unsettled::Unsettled;

/// What a client may do beside sending requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) resets_per_minute: u32,
    pub(super) control_frames_per_minute: u32,
    /// The longest trailers, in bytes.
    pub(super) trailer_bytes: usize,
}

/// Of what there was too much. `Display` is for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Flood {
    /// Streams that the client reset, or made us reset.
    #[error("too many streams were reset")]
    Resets,
    /// Frames that carry no request.
    #[error("too many control frames")]
    ControlFrames,
}

/// Control frames that a stream is worth that ends in order: priorities, and updates of its window.
const FRAMES_PER_STREAM: u32 = 8;

/// Control frames that a DATA frame of ours is worth; as many as Envoy grants.
const FRAMES_PER_DATA: u32 = 10;

/// Follows both directions of one connection.
#[derive(Debug)]
pub(super) struct Meter {
    inbound: Follower,
    outbound: Follower,
    pub(super) trailers: Trailers,
    pub(super) unsettled: Unsettled,
    resets: Bucket,
    control: Bucket,
    /// SETTINGS and PINGs of ours that the client has not acknowledged.
    settings_out: u32,
    pings_out: u32,
    /// Since when the client owes an acknowledgement.
    owes_since: Option<Instant>,
    flood: Option<Flood>,
}

impl Meter {
    /// Of a connection that begins.
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        Meter {
            inbound: Follower::behind_preface(),
            outbound: Follower::default(),
            trailers: Trailers::new(limits.trailer_bytes),
            unsettled: Unsettled::default(),
            resets: Bucket::new(limits.resets_per_minute, now),
            control: Bucket::new(limits.control_frames_per_minute, now),
            settings_out: 0,
            pings_out: 0,
            owes_since: None,
            flood: None,
        }
    }

    /// Bytes have come from the client.
    pub(super) fn received(&mut self, bytes: &[u8], now: Instant) {
        let mut follower = std::mem::take(&mut self.inbound);
        follower.feed(bytes, |passed| match passed {
            Passed::Begin(frame) => {
                self.trailers.begin(frame);
                self.count_received(frame, now);
            }
            Passed::Payload(bytes) => self.trailers.payload(bytes),
            Passed::End(_) => self.trailers.end(),
        });
        self.inbound = follower;
    }

    /// Bytes have gone to the client.
    pub(super) fn sent(&mut self, bytes: &[u8], now: Instant) {
        let mut follower = std::mem::take(&mut self.outbound);
        follower.feed(bytes, |passed| match passed {
            Passed::Begin(frame) => self.count_sent(frame, now),
            Passed::Payload(_) => {}
            Passed::End(frame) if matches!(frame.kind, DATA | HEADERS) && frame.has(END_STREAM) => {
                self.unsettled.written(frame.stream);
            }
            Passed::End(frame) if frame.kind == RST_STREAM => self.unsettled.reset(frame.stream),
            Passed::End(_) => {}
        });
        self.outbound = follower;
    }

    /// At least so many bytes are still to go to the client before a frame of another's may; 0 between two frames.
    pub(super) fn unsent(&self) -> usize {
        self.outbound.left()
    }

    /// A stream has ended in order.
    pub(super) fn finished(&mut self) {
        self.resets.give(1);
        self.control.give(FRAMES_PER_STREAM);
    }

    /// Of what there is too much.
    pub(super) fn flood(&self) -> Option<Flood> {
        self.flood
    }

    /// Since when the client owes an acknowledgement, and whether it is one of SETTINGS.
    pub(super) fn owes(&self) -> Option<(Instant, bool)> {
        self.owes_since.map(|since| (since, self.settings_out > 0))
    }

    fn count_received(&mut self, frame: Frame, now: Instant) {
        match frame.kind {
            HEADERS => {}
            DATA if frame.length > 0 => self.control.give(1),
            DATA if frame.has(END_STREAM) => {}
            RST_STREAM => {
                self.unsettled.reset(frame.stream);
                self.charge(Flood::Resets, now);
            }
            SETTINGS if frame.has(ACK) && self.settings_out > 0 => {
                self.settings_out -= 1;
                self.acknowledged(now);
            }
            PING if frame.has(ACK) && self.pings_out > 0 => {
                self.pings_out -= 1;
                self.acknowledged(now);
            }
            // And WINDOW_UPDATE, whose worth is in the DATA that follows it.
            _ => self.charge(Flood::ControlFrames, now),
        }
    }

    fn count_sent(&mut self, frame: Frame, now: Instant) {
        match frame.kind {
            DATA if frame.length > 0 => self.control.give(FRAMES_PER_DATA),
            RST_STREAM if frame.code.is_some_and(|code| CLIENTS_FAULTS.contains(&code)) => {
                self.charge(Flood::Resets, now);
            }
            SETTINGS if !frame.has(ACK) => {
                self.settings_out += 1;
                self.owes_since.get_or_insert(now);
            }
            PING if !frame.has(ACK) => {
                self.pings_out += 1;
                self.owes_since.get_or_insert(now);
            }
            _ => {}
        }
    }

    fn acknowledged(&mut self, now: Instant) {
        self.owes_since = (self.settings_out + self.pings_out > 0).then_some(now);
    }

    fn charge(&mut self, flood: Flood, now: Instant) {
        let bucket = match flood {
            Flood::Resets => &mut self.resets,
            Flood::ControlFrames => &mut self.control,
        };
        if !bucket.take(now) {
            self.flood.get_or_insert(flood);
        }
    }
}

const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub(super) const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR and REFUSED_STREAM: what a client brings
/// upon itself. Others, such as INTERNAL_ERROR, are no fault of its.
const CLIENTS_FAULTS: [u32; 5] = [1, 3, 5, 6, 7];

/// As much of a frame as is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    flags: u8,
    /// Zero for the connection.
    pub(super) stream: u32,
    /// Of the payload, in bytes.
    length: u32,
    /// Of a RST_STREAM.
    code: Option<u32>,
}

impl Frame {
    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag == flag
    }
}

const HEAD: usize = 9;
const HEAD_AND_CODE: usize = HEAD + 4;
const PREFACE: u32 = 24;

/// What passes by.
#[derive(Clone, Copy, Debug)]
enum Passed<'b> {
    Begin(Frame),
    /// A part of the payload of HEADERS or CONTINUATION; others are not looked at.
    Payload(&'b [u8]),
    End(Frame),
}

/// Finds the frames in one direction's bytes, however they are cut.
#[derive(Debug, Default)]
struct Follower {
    head: [u8; HEAD_AND_CODE],
    have: usize,
    /// The frame whose payload comes.
    frame: Option<Frame>,
    /// Bytes of it that are still to come.
    skip: u32,
    /// Whether CONTINUATION must come next, and nothing before it (RFC 9113, section 6.10).
    is_block_open: bool,
}

impl Follower {
    fn behind_preface() -> Self {
        Follower { skip: PREFACE, ..Follower::default() }
    }

    fn feed(&mut self, mut bytes: &[u8], mut on: impl FnMut(Passed<'_>)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let n = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
                let (payload, rest) = bytes.split_at(n);
                bytes = rest;
                self.skip -= u32::try_from(n).unwrap_or(self.skip);
                if self.frame.is_some_and(|frame| matches!(frame.kind, HEADERS | CONTINUATION)) {
                    on(Passed::Payload(payload));
                }
                if self.skip == 0 {
                    self.frame.take().map(Passed::End).into_iter().for_each(&mut on);
                }
                continue;
            }
            let n = bytes.len().min(self.wanted() - self.have);
            self.head[self.have..self.have + n].copy_from_slice(&bytes[..n]);
            self.have += n;
            bytes = &bytes[n..];
            if self.have < self.wanted() {
                continue;
            }
            let frame = self.frame();
            self.skip = if frame.code.is_some() { frame.length - 4 } else { frame.length };
            self.have = 0;
            self.is_block_open = matches!(frame.kind, HEADERS | CONTINUATION) && !frame.has(END_HEADERS);
            on(Passed::Begin(frame));
            match self.skip {
                0 => on(Passed::End(frame)),
                _ => self.frame = Some(frame),
            }
        }
    }

    /// At least so many bytes are to come before another frame may.
    fn left(&self) -> usize {
        match self.have {
            0 if self.skip == 0 && self.is_block_open => HEAD,
            0 => usize::try_from(self.skip).unwrap_or(usize::MAX),
            have => self.wanted() - have,
        }
    }

    fn wanted(&self) -> usize {
        let has_code = self.have >= HEAD && self.head[3] == RST_STREAM && self.length() >= 4;
        if has_code { HEAD_AND_CODE } else { HEAD }
    }

    fn length(&self) -> u32 {
        u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]])
    }

    fn frame(&self) -> Frame {
        let code = match self.have {
            HEAD_AND_CODE => {
                Some(u32::from_be_bytes([self.head[9], self.head[10], self.head[11], self.head[12]]))
            }
            _ => None,
        };
        let stream =
            u32::from_be_bytes([self.head[5], self.head[6], self.head[7], self.head[8]]) & (u32::MAX >> 1);
        Frame { kind: self.head[3], flags: self.head[4], stream, length: self.length(), code }
    }
}

/// So many tokens a minute, and as many at once.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    per_minute: f64,
    filled: Instant,
}

impl Bucket {
    fn new(per_minute: u32, now: Instant) -> Self {
        Bucket { tokens: per_minute.into(), per_minute: per_minute.into(), filled: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let minutes = now.duration_since(self.filled).as_secs_f64() / Duration::from_secs(60).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + minutes * self.per_minute).min(self.per_minute);
        let enough = self.tokens >= 1.0;
        self.tokens = (self.tokens - 1.0).max(0.0);
        enough
    }

    fn give(&mut self, tokens: u32) {
        self.tokens = (self.tokens + f64::from(tokens)).min(self.per_minute);
    }
}

#[cfg(test)]
mod tests;
