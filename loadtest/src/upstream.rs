//! The server behind the proxy: it answers with bytes that the witness knows.
//!
//! | what is asked | answer |
//! |---|---|
//! | `GET /bytes?n=N&seed=S` | N bytes of [`content`](crate::content) |
//! | `GET /stream?n=N&seed=S&pieces=P&ms=T` | the same, in P pieces over T milliseconds, no length told |
//! | `POST /sum` | the body's CRC-32 in hexadecimal and its length |
//! | `GET /status?code=C` | that status |
//! | `GET /socket` with `Upgrade: websocket` | a WebSocket in which every message comes back |
//! | `POST` with `Content-Type: application/grpc` | a gRPC call in which every message comes back |
//!
//! One port speaks HTTP/1.1 and HTTP/2 with prior knowledge, another both under TLS, by ALPN.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::content::Content;
use crate::local::Local;

/// The largest answer that is given.
const LARGEST: u64 = 1 << 30;

/// How long the server waits after it could not accept: descriptors may come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where a running upstream is; it prints this as one line of JSON when it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// HTTP/1.1 and HTTP/2 with prior knowledge.
    pub plain: SocketAddr,
    /// Both under TLS.
    pub tls: Option<SocketAddr>,
}

/// What it needs for TLS: PEM files.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate and those that prove it.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why it cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address is not to be had.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
    /// A PEM file is no good.
    #[error("{}: {cause}", file.display())]
    Pem {
        /// Which.
        file: PathBuf,
        /// Why.
        cause: String,
    },
}

/// A server that listens and does not yet accept.
pub struct Upstream {
    plain: TcpListener,
    tls: Option<(TcpListener, TlsAcceptor)>,
}

impl Upstream {
    /// Binds `plain`, and `tls` if there is an identity for it.
    ///
    /// # Errors
    ///
    /// An address that is taken, a certificate that cannot be read.
    pub async fn bind(plain: SocketAddr, tls: Option<(SocketAddr, Identity)>) -> Result<Upstream, Error> {
        let tls = match tls {
            None => None,
            Some((address, identity)) => Some((listen(address).await?, acceptor(&identity)?)),
        };
        Ok(Upstream { plain: listen(plain).await?, tls })
    }

    /// Where it is.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn ready(&self) -> io::Result<Ready> {
        let tls = self.tls.as_ref().map(|(listener, _)| listener.local_addr()).transpose()?;
        Ok(Ready { plain: self.plain.local_addr()?, tls })
    }

    /// Serves until it is dropped, in a `LocalSet`.
    pub async fn serve(self) {
        let plain = accept(self.plain, |stream| {
            spawn_local(serve(stream));
        });
        match self.tls {
            None => plain.await,
            Some((listener, acceptor)) => {
                let tls = accept(listener, |stream| {
                    let handshake = acceptor.accept(stream);
                    spawn_local(async move {
                        if let Ok(stream) = handshake.await {
                            serve(stream).await;
                        }
                    });
                });
                tokio::join!(plain, tls);
            }
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let bound = async {
        let socket = if address.is_ipv4() {
            tokio::net::TcpSocket::new_v4()
        } else {
            tokio::net::TcpSocket::new_v6()
        }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(4096)
    };
    bound.await.map_err(|cause| Error::Listen { address, cause })
}

fn acceptor(identity: &Identity) -> Result<TlsAcceptor, Error> {
    fn pem(file: &Path, cause: impl ToString) -> Error {
        Error::Pem { file: file.to_owned(), cause: cause.to_string() }
    }
    let read = |file: &PathBuf| fs::read(file).map_err(|error| pem(file, error));
    let chain = CertificateDer::pem_slice_iter(&read(&identity.chain)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| pem(&identity.chain, error))?;
    let key =
        PrivateKeyDer::from_pem_slice(&read(&identity.key)?).map_err(|error| pem(&identity.key, error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| pem(&identity.chain, error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(listener: TcpListener, mut each: impl FnMut(TcpStream)) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // What cannot be set makes answers slower, not wrong.
                drop(stream.set_nodelay(true));
                each(stream);
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) {
    let mut builder = auto::Builder::new(Local);
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(1000);
    let answered = builder.serve_connection_with_upgrades(TokioIo::new(stream), service_fn(answer)).await;
    // How a connection ends is the client's to judge.
    drop(answered);
}

type Answer = Response<UnsyncBoxBody<Bytes, hyper::Error>>;

async fn answer(request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    if request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
    {
        return Ok(call(request));
    }
    let query = Query(request.uri().query().unwrap_or(""));
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/bytes") => {
            Ok(content(Content::new(query.number("seed"), query.number("n").min(LARGEST))))
        }
        (&Method::GET, "/stream") => {
            let lasts = Duration::from_millis(query.number("ms").min(3_600_000));
            let content_ = Content::new(query.number("seed"), query.number("n").min(LARGEST));
            Ok(content(content_.paced(lasts, query.number("pieces")).unsized_()))
        }
        (&Method::POST, "/sum") => sum(request).await,
        (&Method::GET, "/status") => {
            let code =
                u16::try_from(query.number("code")).ok().and_then(|code| StatusCode::from_u16(code).ok());
            Ok(plain(
                code.filter(|code| code.as_u16() >= 200).unwrap_or(StatusCode::BAD_REQUEST),
                String::new(),
            ))
        }
        (&Method::GET, "/socket") => Ok(socket(request)),
        _ => Ok(plain(
            StatusCode::NOT_FOUND,
            "exuvia-loadtest's upstream: see its README for what it answers\n".into(),
        )),
    }
}

/// The part of a URL behind `?`.
struct Query<'a>(&'a str);

impl Query<'_> {
    /// The number that a name has; 0 if it has none.
    fn number(&self, name: &str) -> u64 {
        let mut pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }
}

fn content(content: Content) -> Answer {
    let mut answer = Response::new(content.map_err(never).boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    answer
}

fn never(infallible: Infallible) -> hyper::Error {
    match infallible {}
}

fn plain(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(text.map_err(never).boxed_unsync());
    *answer.status_mut() = status;
    answer
}

async fn sum(request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let mut body = request.into_body();
    let mut hasher = crc32fast::Hasher::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            hasher.update(&data);
            length += data.len() as u64;
        }
    }
    Ok(plain(StatusCode::OK, summed(hasher.finalize(), length)))
}

/// What `/sum` answers.
#[must_use]
pub fn summed(checksum: u32, length: u64) -> String {
    format!("{checksum:08x} {length}\n")
}

fn socket(mut request: Request<Incoming>) -> Answer {
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
        return plain(StatusCode::UPGRADE_REQUIRED, "a WebSocket is spoken here\n".into());
    };
    let accept = derive_accept_key(key.as_bytes());
    let upgraded = hyper::upgrade::on(&mut request);
    spawn_local(async move {
        let Ok(stream) = upgraded.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let echoed = match message {
                Message::Text(_) | Message::Binary(_) => socket.send(message).await,
                // The answer to a ping or a close is on its way; it goes with the next flush.
                _ => socket.flush().await,
            };
            if echoed.is_err() {
                break;
            }
        }
    });
    let mut answer = plain(StatusCode::SWITCHING_PROTOCOLS, String::new());
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    answer
}

fn call(request: Request<Incoming>) -> Answer {
    let mut answer = Response::new(Echo { body: request.into_body(), over: false }.boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

/// A gRPC call's messages as they came, and at their end the status that says that all was well.
struct Echo {
    body: Incoming,
    over: bool,
}

impl Body for Echo {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) if frame.is_data() => Poll::Ready(Some(Ok(frame))),
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            Some(Ok(_)) | None => {
                self.over = true;
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
        }
    }
}
