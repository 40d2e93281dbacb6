//! What a server says before its answer (RFC 9110, section 15.2): from hyper's callback to whoever waits for the
//! answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use http::{Request, Response};
use hyper::ext::on_informational;

use super::headers;

/// The most interim answers that are passed on for one request. More are dropped, as a proxy may.
const MAX: usize = 16;

/// Where hyper leaves them. It wants something that could be sent to another thread; nothing is.
#[derive(Clone, Debug, Default)]
pub(super) struct Inbox(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    arrived: Vec<Response<()>>,
    /// Those of this request so far.
    count: usize,
    waker: Option<Waker>,
}

impl Inbox {
    /// Begins a request.
    pub(super) fn begin(&self) {
        self.lock().count = 0;
    }

    /// Has what comes before the answer to this request put here.
    pub(super) fn attach<B>(&self, request: &mut Request<B>) {
        let inbox = self.clone();
        on_informational(request, move |response| {
            let mut inner = inbox.lock();
            if inner.count < MAX {
                inner.count += 1;
                let mut kept = Response::new(());
                *kept.status_mut() = response.status();
                *kept.headers_mut() = response.headers().clone();
                headers::end_hop(kept.headers_mut());
                inner.arrived.push(kept);
            }
            if let Some(waker) = inner.waker.take() {
                waker.wake();
            }
        });
    }

    /// Those that have arrived, in order. The task is woken for the next one.
    pub(super) fn take(&self, cx: &Context<'_>) -> Vec<Response<()>> {
        let mut inner = self.lock();
        if !inner.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            inner.waker = Some(cx.waker().clone());
        }
        std::mem::take(&mut inner.arrived)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
