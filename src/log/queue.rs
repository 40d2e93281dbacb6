//! The queue between those who log and the thread that writes.
//!
//! Nothing here waits but the writer, and [`Queue::finish`] for as long as it is told. The access log can have a queue
//! of its own with another [`Output`].
//!
//! `tracing-appender` has such a thread, too, but does not say what was dropped, cannot be told how long the end may
//! take, and writes with calls that nothing can interrupt, see [`Output`].

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing_subscriber::fmt::MakeWriter;

use super::output::{AT_ONCE, Output};
use super::thinning::{PERIOD, Thinning};
use crate::restart::Tally;

/// The most lines, and bytes of them, that wait to be written.
const MAX_LINES: usize = 8192;
const MAX_BYTES: usize = 1 << 20;

/// Where lines are put. Clones are the same queue.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    items: SyncSender<Item>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) enum Item {
    /// Whole lines.
    Lines(Vec<u8>),
    /// For standard output.
    Show(Vec<u8>),
    /// Nothing to write; but there is something else to be looked at.
    Wake,
}

/// What both ends know.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// How many bytes wait.
    bytes: AtomicUsize,
    dropped: Counter,
    /// How many of the dropped no line has told of.
    untold: AtomicU64,
    finishing: AtomicBool,
    finished: OnceLock<thread::Thread>,
    done: AtomicBool,
}

/// A counter that is there before the memory for counters is.
#[derive(Debug, Default)]
pub(super) struct Counter {
    early: AtomicU64,
    tally: OnceLock<Tally>,
}

impl Counter {
    pub(super) fn add(&self, n: u64) {
        match self.tally.get() {
            Some(tally) => tally.add(n),
            None => drop(self.early.fetch_add(n, Relaxed)),
        }
    }

    pub(super) fn count_in(&self, tally: Tally) {
        let tally = self.tally.get_or_init(|| tally);
        tally.add(self.early.swap(0, Relaxed));
    }
}

impl Queue {
    pub(super) fn new() -> (Queue, Receiver<Item>) {
        let (items, received) = sync_channel(MAX_LINES);
        (Queue { items, shared: Arc::default() }, received)
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    pub(super) fn count_in(&self, tally: Tally) {
        self.shared.dropped.count_in(tally);
    }

    /// Has lines written, or drops and counts them where there is no room.
    pub(super) fn offer(&self, lines: Vec<u8>) {
        if lines.is_empty() {
            return;
        }
        let (length, count) = (lines.len(), count(&lines));
        if self.shared.bytes.fetch_add(length, Relaxed) + length > MAX_BYTES
            || self.items.try_send(Item::Lines(lines)).is_err()
        {
            self.shared.bytes.fetch_sub(length, Relaxed);
            self.shared.drop_lines(count);
        }
    }

    /// Has a text written to standard output.
    pub(super) fn show(&self, text: Vec<u8>) {
        // Nobody misses it who does not look.
        self.items.try_send(Item::Show(text)).ok();
    }

    /// Has the writer look whether there is something else to do.
    pub(super) fn wake(&self) {
        // A writer that is behind looks anyway.
        self.items.try_send(Item::Wake).ok();
    }

    /// Waits until all is written, or `patience` is over.
    pub(super) fn finish(&self, patience: Duration) {
        self.shared.finished.get_or_init(thread::current);
        self.shared.finishing.store(true, Release);
        self.wake();
        let until = Instant::now() + patience;
        while !self.shared.done.load(Acquire) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count().max(1) as u64
}

impl Shared {
    fn drop_lines(&self, count: u64) {
        self.dropped.add(count);
        self.untold.fetch_add(count, Relaxed);
    }

    /// Whether more would fit than waits.
    fn has_room(&self) -> bool {
        self.bytes.load(Relaxed) <= MAX_BYTES / 2
    }
}

/// A line, on its way from the formatter into the queue.
impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.offer(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Queue;

    fn make_writer(&'a self) -> &'a Queue {
        self
    }
}

/// The thread that writes.
pub(super) struct Writer {
    items: Receiver<Item>,
    shared: Arc<Shared>,
    output: Output,
    thinning: Arc<Thinning>,
    /// When to say next what was left out.
    summary: Option<Instant>,
}

impl Writer {
    pub(super) fn start(
        items: Receiver<Item>,
        shared: Arc<Shared>,
        output: Output,
        thinning: Arc<Thinning>,
    ) -> io::Result<()> {
        let writer = Writer { items, shared, output, thinning, summary: None };
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.run()).map(drop)
    }

    fn run(mut self) {
        let (mut batch, mut is_summed_up) = (Vec::new(), false);
        loop {
            // Before the queue is looked at: what was put into it before the end is written.
            let is_finishing = self.is_finishing();
            let item = match self.items.try_recv() {
                Ok(item) => Ok(item),
                Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => {
                    self.write(&mut batch);
                    if is_finishing {
                        if is_summed_up || !self.summarise(true) {
                            break;
                        }
                        is_summed_up = true;
                        continue;
                    }
                    match self.summary {
                        None => self.items.recv().map_err(|_| RecvTimeoutError::Disconnected),
                        Some(at) => self.items.recv_timeout(at.saturating_duration_since(Instant::now())),
                    }
                }
            };
            match item {
                Ok(Item::Lines(lines)) => {
                    self.shared.bytes.fetch_sub(lines.len(), Relaxed);
                    if batch.len() + lines.len() > AT_ONCE {
                        self.write(&mut batch);
                    }
                    batch.extend(lines);
                }
                Ok(Item::Show(text)) => {
                    self.write(&mut batch);
                    show(&text);
                }
                Ok(Item::Wake) => self.output.look(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.summary.is_some_and(|at| at <= Instant::now()) {
                self.summarise(false);
            }
        }
        self.write(&mut batch);
        self.shared.done.store(true, Release);
        if let Some(waiting) = self.shared.finished.get() {
            waiting.unpark();
        }
    }

    fn is_finishing(&self) -> bool {
        self.shared.finishing.load(Acquire)
    }

    fn write(&mut self, batch: &mut Vec<u8>) {
        if batch.is_empty() {
            return;
        }
        if self.output.write_all(batch).is_err() {
            // Nobody will read it. There is nowhere to say so but in the counters: a line about it would be the next one
            // that cannot be written.
            self.shared.dropped.add(count(batch));
        }
        batch.clear();
        // Whatever was left out was left out around a line that was written.
        self.summary.get_or_insert_with(|| Instant::now() + PERIOD);
    }

    /// Says what was left out, if anything; `true` if it has. It goes through the queue as all that is logged does.
    fn summarise(&mut self, all: bool) -> bool {
        self.summary = None;
        let mut said = false;
        if self.shared.has_room() {
            let dropped = self.shared.untold.swap(0, Relaxed);
            if dropped > 0 {
                tracing::warn!(
                    dropped,
                    "log lines were dropped, because standard error was not read fast enough"
                );
                said = true;
            }
        }
        for (about, suppressed) in self.thinning.take_overdue(all) {
            tracing::warn!(suppressed, "more lines of this kind: {about}");
            said = true;
        }
        if self.shared.untold.load(Relaxed) > 0 || self.thinning.is_owing() {
            self.summary = Some(Instant::now() + PERIOD);
        }
        said
    }
}

/// Writes to standard output what that takes without waiting.
fn show(text: &[u8]) {
    let mut stdout = io::stdout();
    for part in text.chunks(AT_ONCE) {
        let mut wanted = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
        let is_writable = poll(&mut wanted, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        if !is_writable || stdout.write_all(part).and_then(|()| stdout.flush()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, PipeReader, Read};

    use super::*;

    /// A queue of which the lines go into a pipe, and that pipe.
    fn queue() -> (Queue, PipeReader) {
        let (reader, file) = io::pipe().unwrap();
        let (output, _) = Output::new(file.into()).unwrap();
        let (queue, items) = Queue::new();
        Writer::start(items, queue.shared(), output, Arc::default()).unwrap();
        (queue, reader)
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    fn offer(queue: &Queue, n: u64) {
        queue.offer(format!("{n:099}\n").into_bytes());
    }

    fn dropped(queue: &Queue) -> u64 {
        queue.shared.dropped.early.load(Relaxed)
    }

    #[test]
    fn lines_are_written_in_order_and_before_the_end() {
        let (queue, reader) = queue();
        let reading = thread::spawn(move || BufReader::new(reader).lines().map(Result::unwrap).collect());
        (0..5000).for_each(|n| offer(&queue, n));
        queue.finish(PATIENCE);
        assert!(queue.shared.done.load(Acquire));
        drop(queue);
        let lines: Vec<String> = reading.join().unwrap();
        assert_eq!(lines.len(), 5000);
        assert!(lines.is_sorted());
    }

    /// A worker hung in the write of a log line that nobody read.
    #[test]
    fn nobody_waits_for_a_reader_and_what_does_not_fit_is_counted() {
        let (queue, mut reader) = queue();
        let all = 2 * MAX_BYTES as u64 / 100;
        (0..all).for_each(|n| offer(&queue, n));
        let lost = dropped(&queue);
        assert!(lost > 0 && lost < all, "{lost}");
        assert_eq!(queue.shared.untold.load(Relaxed), lost);
        queue.finish(Duration::ZERO);
        assert!(!queue.shared.done.load(Acquire), "it cannot be, and is not waited for");

        drop(queue);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count() as u64, all - lost);
        let numbers: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert!(numbers.is_sorted());
        assert_eq!(numbers[..1000], *Vec::from_iter(0..1000), "the last ones are dropped, not the first");
    }

    #[test]
    fn there_is_an_end_to_lines_that_are_short() {
        let (queue, _reader) = queue();
        let all = 3 * MAX_LINES as u64 + 70_000;
        (0..all).for_each(|_| queue.offer(b"\n".to_vec()));
        assert!(dropped(&queue) > 0);
        queue.offer(b"".to_vec());
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let (queue, reader) = queue();
        drop(reader);
        queue.offer(b"one\ntwo\n".to_vec());
        queue.finish(PATIENCE);
        assert_eq!((dropped(&queue), queue.shared.untold.load(Relaxed)), (2, 0), "nobody can be told of it");
    }
}
