//! What a request on the control socket asks for.

use http::{Method, StatusCode};

use crate::http::Refusal;
use crate::restart::Stop;

/// What there is to ask for, for the one who asked for something else.
pub(super) const ENDPOINTS: &[&str] = &[
    "GET /v1/status",
    "GET /v1/watch",
    "POST /v1/upgrade[?stream=1][&until=ready|committed]",
    "POST /v1/rollback",
    "POST /v1/stop[?now=1][&stream=1]",
];

/// How far an upgrade is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Until {
    /// The new process accepts; the old one still watches it.
    Ready,
    /// The verdict: the old process has let go, or has taken everything back.
    #[default]
    Committed,
}

impl Until {
    /// The word for it in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            Until::Ready => "ready",
            Until::Committed => "committed",
        }
    }
}

/// A request that can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Status,
    Watch,
    Upgrade { stream: bool, until: Until },
    Rollback,
    Stop { how: Stop, stream: bool },
}

/// What `method` on `path`, with this `query`, asks for.
pub(super) fn route(method: &Method, path: &str, query: &str) -> Result<Route, Refusal> {
    let allowed = match path {
        "/v1/status" => "GET, HEAD",
        // There is no end to wait for.
        "/v1/watch" => "GET",
        "/v1/upgrade" | "/v1/rollback" | "/v1/stop" => "POST",
        _ => return Err(Refusal::new(StatusCode::NOT_FOUND, format!("there is nothing at {path}"))),
    };
    if !allowed.split(", ").any(|name| name == method.as_str()) {
        let error = format!("{path} takes {allowed}, not {method}");
        return Err(Refusal { status: StatusCode::METHOD_NOT_ALLOWED, error, allow: Some(allowed) });
    }

    let (mut stream, mut now, mut until) = (false, false, Until::default());
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match (path, parameter) {
            ("/v1/upgrade" | "/v1/stop", "stream=1") => stream = true,
            ("/v1/upgrade" | "/v1/stop", "stream=0") => stream = false,
            ("/v1/upgrade", "until=ready") => until = Until::Ready,
            ("/v1/upgrade", "until=committed") => until = Until::Committed,
            ("/v1/stop", "now=1") => now = true,
            ("/v1/stop", "now=0") => now = false,
            // A parameter with a slip in it must not be one that was not given.
            _ => {
                let error = format!("{path} has no parameter {parameter:?}");
                return Err(Refusal::new(StatusCode::BAD_REQUEST, error));
            }
        }
    }
    Ok(match path {
        "/v1/upgrade" => Route::Upgrade { stream, until },
        "/v1/rollback" => Route::Rollback,
        "/v1/stop" => Route::Stop { how: if now { Stop::Now } else { Stop::Gracefully }, stream },
        "/v1/watch" => Route::Watch,
        _ => Route::Status,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: Method, target: &str) -> Result<Route, Refusal> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        route(&method, path, query)
    }

    #[test]
    fn every_endpoint_is_found() {
        let upgrade = |stream, until| Ok(Route::Upgrade { stream, until });
        let stop = |how, stream| Ok(Route::Stop { how, stream });
        assert_eq!(asked(Method::GET, "/v1/status"), Ok(Route::Status));
        assert_eq!(asked(Method::HEAD, "/v1/status"), Ok(Route::Status));
        assert_eq!(asked(Method::GET, "/v1/watch"), Ok(Route::Watch));
        assert_eq!(asked(Method::POST, "/v1/upgrade"), upgrade(false, Until::Committed));
        assert_eq!(asked(Method::POST, "/v1/upgrade?stream=1&until=ready"), upgrade(true, Until::Ready));
        assert_eq!(asked(Method::POST, "/v1/upgrade?until=committed"), upgrade(false, Until::Committed));
        assert_eq!(asked(Method::POST, "/v1/rollback"), Ok(Route::Rollback));
        assert_eq!(asked(Method::POST, "/v1/stop"), stop(Stop::Gracefully, false));
        assert_eq!(asked(Method::POST, "/v1/stop?now=1&stream=1"), stop(Stop::Now, true));
        for endpoint in ENDPOINTS {
            let (method, target) = endpoint.split_once(' ').unwrap();
            let path = target.split('[').next().unwrap();
            assert!(asked(method.parse().unwrap(), path).is_ok(), "{endpoint}");
        }
    }

    #[test]
    fn nothing_is_changed_by_a_get() {
        for path in ["/v1/upgrade", "/v1/rollback", "/v1/stop"] {
            let refusal = asked(Method::GET, path).unwrap_err();
            assert_eq!((refusal.status.as_u16(), refusal.allow), (405, Some("POST")), "{path}");
        }
        assert_eq!(asked(Method::POST, "/v1/status").unwrap_err().allow, Some("GET, HEAD"));
    }

    #[test]
    fn a_slip_is_told_and_never_ignored() {
        let status = |target| asked(Method::POST, target).unwrap_err().status.as_u16();
        assert_eq!(status("/v1/upgrade?until=redy"), 400);
        assert_eq!(status("/v1/stop?now"), 400);
        assert_eq!(status("/v1/stop?now=yes"), 400);
        assert_eq!(status("/v1/rollback?stream=1"), 400);
        assert_eq!(status("/v2/stop"), 404);
        assert_eq!(status("/v1/stop/"), 404);
        assert_eq!(status("*"), 404);
    }
}
