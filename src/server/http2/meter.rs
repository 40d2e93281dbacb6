//! Counts frames that cost this side more than they cost the client.
//!
//! h2 bounds what a connection may *hold*: streams, headers, continuations. It does not bound what one may make it
//! *do*: PINGs are answered, SETTINGS acknowledged, streams opened and given up, for as long as they come. So the
//! heads of frames (RFC 9113, section 4.1) are read as they pass beneath it, and each kind has a budget by the
//! minute. What a budget counts:
//!
//! - **resets**: streams that the client gives up (rapid reset, CVE-2023-44487), and those that it makes us give up
//!   by breaking the rules (made-you-reset, CVE-2025-8671). A stream that ends in order earns one.
//! - **control frames**: all that carry nothing of a request: PING, SETTINGS, PRIORITY, CONTINUATION, empty DATA,
//!   WINDOW_UPDATE, unknown ones. A DATA frame of ours earns two, since windows are updated for it.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// What a client sends before its first frame (RFC 9113, section 3.4), in bytes.
const PREFACE_BYTES: u32 = 24;

/// The head of a frame, in bytes.
const HEAD_BYTES: usize = 9;

const MINUTE: Duration = Duration::from_secs(60);

/// What a client may do in a minute.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budgets {
    /// Streams that are reset, beyond those that ended in order.
    pub(super) resets: u32,
    /// Frames that carry nothing.
    pub(super) control_frames: u32,
}

/// Why a connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    /// Too many streams were reset.
    Resets,
    /// Too many frames carried nothing.
    ControlFrames,
}

impl Excess {
    /// The word for it in logs.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Excess::Resets => "too many streams were reset",
            Excess::ControlFrames => "too many frames carried nothing",
        }
    }
}

/// The meter of one connection.
#[derive(Debug)]
pub(super) struct Meter {
    received: RefCell<Frames>,
    sent: RefCell<Frames>,
    resets: Bucket,
    control: Bucket,
    excess: Cell<Option<Excess>>,
    /// Whether the client's preface has come.
    begun: Cell<bool>,
}

impl Meter {
    /// A meter for a connection that begins now.
    pub(super) fn new(budgets: Budgets) -> Rc<Self> {
        Rc::new(Meter {
            received: RefCell::new(Frames::new(PREFACE_BYTES)),
            sent: RefCell::new(Frames::new(0)),
            resets: Bucket::new(budgets.resets),
            control: Bucket::new(budgets.control_frames),
            excess: Cell::new(None),
            begun: Cell::new(false),
        })
    }

    /// Which budget is spent, if one is.
    pub(super) fn excess(&self) -> Option<Excess> {
        self.excess.get()
    }

    /// Whether the client's preface and the head of its first frame have come.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.get()
    }

    /// A stream has ended in order.
    pub(super) fn stream_done(&self) {
        self.resets.earn(1);
    }

    fn received(&self, bytes: &[u8]) {
        self.received.borrow_mut().feed(bytes, |frame| {
            self.begun.set(true);
            match frame.kind {
                kind::HEADERS => {}
                kind::DATA if frame.length > 0 || frame.flags & END_STREAM != 0 => {}
                kind::RST_STREAM => self.spend(&self.resets, Excess::Resets),
                _ => self.spend(&self.control, Excess::ControlFrames),
            }
        });
    }

    fn sent(&self, bytes: &[u8]) {
        self.sent.borrow_mut().feed(bytes, |frame| match frame.kind {
            kind::DATA => self.control.earn(2),
            kind::RST_STREAM if is_the_peers_fault(frame.word) => self.spend(&self.resets, Excess::Resets),
            _ => {}
        });
    }

    fn spend(&self, bucket: &Bucket, excess: Excess) {
        if !bucket.spend() && self.excess.get().is_none() {
            self.excess.set(Some(excess));
        }
    }
}

/// Whether we reset a stream for what the client did (RFC 9113, section 7), and not for what an upstream did.
fn is_the_peers_fault(reason: u32) -> bool {
    const NO_ERROR: u32 = 0;
    const INTERNAL_ERROR: u32 = 2;
    const CANCEL: u32 = 8;
    const CONNECT_ERROR: u32 = 10;
    ![NO_ERROR, INTERNAL_ERROR, CANCEL, CONNECT_ERROR].contains(&reason)
}

/// Types of frames (RFC 9113, section 6).
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
}

const END_STREAM: u8 = 1;

/// One frame, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    length: u32,
    /// The first four bytes of an RST_STREAM: its reason.
    word: u32,
}

/// Finds the frames in a stream of bytes.
#[derive(Debug)]
struct Frames {
    /// Bytes that are passed over.
    skip: u32,
    /// The head, and the reason of an RST_STREAM, as far as they have come.
    head: [u8; HEAD_BYTES + 4],
    have: usize,
}

impl Frames {
    fn new(skip: u32) -> Self {
        Frames { skip, head: [0; HEAD_BYTES + 4], have: 0 }
    }

    fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(Frame)) {
        loop {
            let skipped = bytes.len().min(self.skip as usize);
            self.skip -= skipped as u32;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let want = self.want() - self.have;
            let (part, rest) = bytes.split_at(want.min(bytes.len()));
            self.head[self.have..self.have + part.len()].copy_from_slice(part);
            self.have += part.len();
            bytes = rest;
            if self.have == self.want() {
                let [a, b, c, kind, flags, _, _, _, _, word @ ..] = self.head;
                let length = u32::from_be_bytes([0, a, b, c]);
                let begun = (self.have - HEAD_BYTES) as u32;
                let word = if begun > 0 { u32::from_be_bytes(word) } else { 0 };
                (self.have, self.skip) = (0, length - begun);
                found(Frame { kind, flags, length, word });
            }
        }
    }

    /// How much of a frame is looked at.
    fn want(&self) -> usize {
        let [a, b, c, kind, ..] = self.head;
        let has_word = self.have >= HEAD_BYTES && kind == kind::RST_STREAM && [a, b, c] >= [0, 0, 4];
        if has_word { HEAD_BYTES + 4 } else { HEAD_BYTES }
    }
}

/// A budget that comes back with time: full at first, and full again after a minute.
#[derive(Debug)]
struct Bucket {
    most: u32,
    left: Cell<u32>,
    /// From when on time has not been turned into budget yet.
    since: Cell<Option<Instant>>,
}

impl Bucket {
    fn new(most: u32) -> Self {
        Bucket { most, left: Cell::new(most), since: Cell::new(None) }
    }

    /// Whether there was one left.
    fn spend(&self) -> bool {
        if self.left.get() == 0 || self.since.get().is_none() {
            self.refill();
        }
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }

    fn earn(&self, count: u32) {
        self.left.set(self.left.get().saturating_add(count).min(self.most));
    }

    /// Seldom: the clock is read when all is spent.
    fn refill(&self) {
        let now = Instant::now();
        let since = self.since.get().unwrap_or(now);
        let share = now.duration_since(since).as_secs_f64() / MINUTE.as_secs_f64();
        let earned = (share * f64::from(self.most)) as u32;
        if earned > 0 || self.since.get().is_none() {
            self.since.set(Some(now));
        }
        self.earn(earned);
    }
}

/// A stream whose frames are counted.
#[derive(Debug)]
pub(super) struct Metered<S> {
    stream: S,
    meter: Rc<Meter>,
}

impl<S> Metered<S> {
    /// Counts what passes through `stream`.
    pub(super) fn new(stream: S, meter: Rc<Meter>) -> Self {
        Metered { stream, meter }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        if result.is_ready() {
            this.meter.received(&buf.filled()[before..]);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = result {
            this.meter.sent(&buf[..written]);
        }
        result
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(mut written)) = result {
            for buf in bufs {
                let part = written.min(buf.len());
                this.meter.sent(&buf[..part]);
                written -= part;
            }
        }
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const PING: u8 = 6;
    const BUDGETS: Budgets = Budgets { resets: 3, control_frames: 5 };

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn found(parts: &[&[u8]]) -> Vec<Frame> {
        let (mut frames, mut all) = (Frames::new(PREFACE_BYTES), Vec::new());
        parts.iter().for_each(|part| frames.feed(part, |frame| all.push(frame)));
        all
    }

    #[test]
    fn frames_are_found_however_they_come() {
        let bytes = [
            PREFACE,
            &frame(4, 0, &[9; 18]),
            &frame(kind::HEADERS, 4, b"abc"),
            &frame(kind::DATA, 0, b""),
            &frame(kind::RST_STREAM, 0, &[0, 0, 0, 8]),
            // Too short for a reason: h2 ends the connection.
            &frame(kind::RST_STREAM, 0, &[7; 3]),
            &frame(kind::DATA, END_STREAM, &[3; 300]),
        ]
        .concat();
        let whole = found(&[&bytes]);
        let expected = [(4, 18, 0), (1, 3, 0), (0, 0, 0), (3, 4, 8), (3, 3, 0), (0, 300, 0)];
        let as_tuples: Vec<_> = whole.iter().map(|f| (f.kind, f.length, f.word)).collect();
        assert_eq!(as_tuples, expected);
        for cut in 0..=bytes.len() {
            assert_eq!(found(&[&bytes[..cut], &bytes[cut..]]), whole, "cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(found(&single), whole);
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_is_spent_and_comes_back() {
        let meter = Meter::new(BUDGETS);
        meter.received(PREFACE);
        assert!(!meter.has_begun());
        for _ in 0..5 {
            meter.received(&frame(PING, 0, &[0; 8]));
        }
        assert!(meter.has_begun());
        assert_eq!(meter.excess(), None);
        // A fifth of a minute is one of five.
        tokio::time::advance(Duration::from_secs(12)).await;
        meter.received(&frame(PING, 0, &[0; 8]));
        assert_eq!(meter.excess(), None);
        meter.received(&frame(PING, 0, &[0; 8]));
        assert_eq!(meter.excess(), Some(Excess::ControlFrames));
    }

    #[tokio::test(start_paused = true)]
    async fn resets_are_earned_by_streams_that_end_in_order() {
        let meter = Meter::new(BUDGETS);
        meter.received(PREFACE);
        for _ in 0..100 {
            meter.received(&frame(kind::RST_STREAM, 0, &[0, 0, 0, 8]));
            meter.stream_done();
        }
        assert_eq!(meter.excess(), None);
        for _ in 0..4 {
            meter.received(&frame(kind::RST_STREAM, 0, &[0, 0, 0, 8]));
        }
        assert_eq!(meter.excess(), Some(Excess::Resets));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_client_makes_us_reset_is_its_own() {
        let meter = Meter::new(BUDGETS);
        for _ in 0..100 {
            // Given up for an upstream's fault, or because the answer is complete.
            meter.sent(&frame(kind::RST_STREAM, 0, &[0, 0, 0, 2]));
            meter.sent(&frame(kind::RST_STREAM, 0, &[0, 0, 0, 0]));
        }
        assert_eq!(meter.excess(), None);
        for _ in 0..4 {
            meter.sent(&frame(kind::RST_STREAM, 0, &[0, 0, 0, 3]));
        }
        assert_eq!(meter.excess(), Some(Excess::Resets));
    }

    #[tokio::test(start_paused = true)]
    async fn a_download_earns_the_window_updates_it_needs() {
        const WINDOW_UPDATE: u8 = 8;
        let meter = Meter::new(BUDGETS);
        meter.received(PREFACE);
        for _ in 0..1000 {
            meter.sent(&frame(kind::DATA, 0, b"some of it"));
            meter.received(&frame(WINDOW_UPDATE, 0, &[0; 4]));
            meter.received(&frame(WINDOW_UPDATE, 0, &[0; 4]));
            meter.received(&frame(kind::DATA, 0, b"and an upload"));
        }
        assert_eq!(meter.excess(), None);
        for _ in 0..6 {
            meter.received(&frame(kind::DATA, 0, b""));
        }
        assert_eq!(meter.excess(), Some(Excess::ControlFrames));
    }
}
