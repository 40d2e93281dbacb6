//! The time of day, as HTTP writes it.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use http::header::HeaderValue;

/// Writes the time once a second.
#[derive(Debug, Default)]
pub(in crate::server) struct Clock(RefCell<Option<(Duration, HeaderValue)>>);

impl Clock {
    /// The value of `Date` (RFC 9110, section 5.6.7).
    pub(super) fn now(&self) -> HeaderValue {
        let now = SystemTime::now();
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let second = Duration::from_secs(since_epoch.as_secs());
        let mut written = self.0.borrow_mut();
        match &*written {
            Some((of, value)) if *of == second => value.clone(),
            _ => {
                let text = httpdate::fmt_http_date(now);
                let value = HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
                written.insert((second, value)).1.clone()
            }
        }
    }
}
