//! Bodies that are made as they are sent.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Interval, MissedTickBehavior, interval};

const BLOCK: &[u8] = &[b'x'; 64 * 1024];

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Body {
    /// All at once; taken when it is sent.
    Text(Bytes),
    /// So many bytes.
    Bytes { left: u64 },
    /// Numbered lines, one at each tick.
    Lines { next: u64, count: u64, ticks: Interval },
    /// What the client sends, trailers too.
    Echo(Incoming),
}

impl Body {
    pub(super) fn lines(count: u64, every: Duration) -> Self {
        // An interval must not be zero.
        let mut ticks = interval(every.max(Duration::from_micros(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Body::Lines { next: 1, count, ticks }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let data = match self.get_mut() {
            Body::Echo(incoming) => return Pin::new(incoming).poll_frame(cx),
            Body::Text(text) => std::mem::take(text),
            Body::Bytes { left } => {
                let n = BLOCK.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= n as u64;
                Bytes::from_static(&BLOCK[..n])
            }
            Body::Lines { next, count, .. } if *next > *count => Bytes::new(),
            Body::Lines { next, ticks, .. } => {
                ready!(ticks.poll_tick(cx));
                let line = format!("line {next}\n");
                *next += 1;
                line.into()
            }
        };
        Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Text(text) => text.is_empty(),
            Body::Bytes { left } => *left == 0,
            Body::Lines { next, count, .. } => next > count,
            Body::Echo(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Text(text) => SizeHint::with_exact(text.len() as u64),
            Body::Bytes { left } => SizeHint::with_exact(*left),
            Body::Lines { .. } => SizeHint::default(),
            Body::Echo(incoming) => incoming.size_hint(),
        }
    }
}
