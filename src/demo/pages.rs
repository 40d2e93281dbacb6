//! What the demonstration upstream answers.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Serialize;
use tokio::time::sleep;

use super::DemoInfo;
use super::body::Body;

const MAX_PAUSE_MS: u64 = 10 * 60 * 1000;
const MAX_BYTES: u64 = 16 << 30;
const MAX_LINES: u64 = 1_000_000;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// The most that is read of a body that a page has no use for, in bytes.
const MAX_UNUSED: usize = 1 << 20;

pub(super) async fn answer(info: &DemoInfo, request: Request<Incoming>) -> Response<Body> {
    if request.uri().path() == "/echo" {
        return echo(request);
    }
    let (head, body) = request.into_parts();
    let is_read = read_off(body).await;
    let mut response = page(info, &Request::from_parts(head, ())).await;
    if !is_read {
        // hyper closes a connection with a body that was not read, and does not say so.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether the body has come to its end.
async fn read_off(mut body: Incoming) -> bool {
    let mut left = MAX_UNUSED;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => return false,
        }
    }
    true
}

async fn page(info: &DemoInfo, request: &Request<()>) -> Response<Body> {
    let parameters = Parameters(request.uri().query().unwrap_or_default());
    let answer = match request.uri().path() {
        "/slow" => slow(info, request, &parameters).await,
        "/bytes" => {
            parameters.number("n", 1024, 0, MAX_BYTES).map(|left| respond(BINARY, Body::Bytes { left }))
        }
        "/stream" => stream(&parameters),
        "/status" => status(&parameters),
        _ => Ok(show(info, request, "")),
    };
    answer.unwrap_or_else(|problem| {
        let mut response = respond(TEXT, Body::Text(format!("400 Bad Request: {problem}\n").into()));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response
    })
}

async fn slow(
    info: &DemoInfo,
    request: &Request<()>,
    parameters: &Parameters<'_>,
) -> Result<Response<Body>, String> {
    let ms = parameters.number("ms", 1000, 0, MAX_PAUSE_MS)?;
    sleep(Duration::from_millis(ms)).await;
    Ok(show(info, request, &format!("after {ms} ms\n")))
}

fn stream(parameters: &Parameters<'_>) -> Result<Response<Body>, String> {
    let lines = parameters.number("n", 10, 0, MAX_LINES)?;
    let every = Duration::from_millis(parameters.number("every_ms", 100, 0, MAX_PAUSE_MS)?);
    Ok(respond(TEXT, Body::lines(lines, every)))
}

fn status(parameters: &Parameters<'_>) -> Result<Response<Body>, String> {
    let code = parameters.number("code", 200, 200, 599)?;
    let status = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.unwrap_or(StatusCode::OK);
    let text = match status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => Bytes::new(),
        _ => format!("{status}\n").into(),
    };
    let mut response = respond(TEXT, Body::Text(text));
    *response.status_mut() = status;
    Ok(response)
}

fn echo(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let kind = head.headers.get(header::CONTENT_TYPE).cloned().unwrap_or(BINARY);
    let mut response = respond(kind, Body::Echo(body));
    // Without the announcement hyper sends no trailers.
    if let Some(trailer) = head.headers.get(header::TRAILER) {
        response.headers_mut().insert(header::TRAILER, trailer.clone());
    }
    response
}

/// Shows the request.
fn show(info: &DemoInfo, request: &Request<()>, note: &str) -> Response<Body> {
    let fields = fields(request.headers());
    let accepts = request.headers().get_all(header::ACCEPT).iter();
    let wants_json =
        accepts.filter_map(|value| value.to_str().ok()).any(|value| value.contains("application/json"));
    if wants_json {
        let shown = Shown {
            generation: info.generation,
            pid: info.pid,
            version: &info.version,
            method: request.method().as_str(),
            target: request.uri().to_string(),
            headers: fields,
        };
        return match serde_json::to_vec_pretty(&shown) {
            Ok(mut json) => {
                json.push(b'\n');
                respond(JSON, Body::Text(json.into()))
            }
            Err(error) => respond(TEXT, Body::Text(format!("{error}\n").into())),
        };
    }
    let DemoInfo { generation, pid, version } = info;
    let mut text = format!("exuvia {version}, generation {generation}, pid {pid}\n{note}\n");
    // Writing to a string does not fail.
    writeln!(text, "{} {}", request.method(), request.uri()).ok();
    for (name, value) in fields {
        writeln!(text, "{name}: {value}").ok();
    }
    respond(TEXT, Body::Text(text.into()))
}

#[derive(Serialize)]
struct Shown<'s> {
    generation: u64,
    pid: u32,
    version: &'s str,
    method: &'s str,
    target: String,
    /// In pairs: a field may come more than once.
    headers: Vec<(&'s str, String)>,
}

fn fields(headers: &HeaderMap) -> Vec<(&str, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect()
}

fn respond(kind: HeaderValue, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The parameters of a query.
struct Parameters<'q>(&'q str);

impl Parameters<'_> {
    /// The number called `name`. An error says what is allowed.
    fn number(&self, name: &str, default: u64, min: u64, max: u64) -> Result<u64, String> {
        let mut pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        let Some((_, value)) = pairs.find(|(key, _)| *key == name) else { return Ok(default) };
        value.parse().ok().filter(|number| (min..=max).contains(number)).ok_or_else(|| {
            format!("{name} must be a number from {min} to {max} (default {default}); it is {value:?}")
        })
    }
}
