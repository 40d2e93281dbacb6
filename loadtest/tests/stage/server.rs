//! A tiny upstream, and clients of it through a proxy: HTTP/1.1 in plain and over TLS, a call over HTTP/2.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use loadtest::stage::Upstream;
use loadtest::stage::certificate::Certificate;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

pub(crate) struct Server {
    pub(crate) upstream: Upstream,
}

impl Server {
    /// Serves until the runtime ends.
    pub(crate) async fn start(certificate: &Certificate) -> Server {
        let chain: Vec<_> =
            CertificateDer::pem_file_iter(&certificate.chain).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&certificate.key).unwrap();
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let mut config = config.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tls = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Upstream { plain: plain.local_addr().unwrap(), tls: tls.local_addr().unwrap() };
        tokio::spawn(async move {
            while let Ok((stream, _)) = plain.accept().await {
                tokio::spawn(async move {
                    let mut first = [0; 3];
                    let knows = stream.peek(&mut first).await.is_ok() && &first == b"PRI";
                    serve(stream, knows).await;
                });
            }
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = tls.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    serve(stream, http2).await;
                });
            }
        });
        Server { upstream }
    }

    /// The answer to a request in plain.
    pub(crate) async fn get(&self, to: SocketAddr) -> io::Result<String> {
        let stream = TcpStream::connect(to).await?;
        Ok(get(stream).await)
    }

    /// The same over TLS.
    pub(crate) async fn get_tls(&self, to: SocketAddr, certificate: &Certificate) -> String {
        get(connect(to, certificate, "http/1.1").await).await
    }

    /// The answer to a call, over HTTP/2 and TLS.
    pub(crate) async fn call(&self, to: SocketAddr, certificate: &Certificate) -> String {
        let stream = TokioIo::new(connect(to, certificate, "h2").await);
        let (mut sender, connection) = conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(async { connection.await.ok() });
        let request = Request::builder().method(Method::POST).uri(format!("https://{to}/test.Echo/Call"));
        let request = request.header("content-type", "application/grpc").header("te", "trailers");
        let request = request.body(Full::new(Bytes::from_static(b"\0\0\0\0\x01x"))).unwrap();
        text(sender.send_request(request).await.unwrap()).await
    }
}

async fn connect(to: SocketAddr, certificate: &Certificate, protocol: &str) -> TlsStream<TcpStream> {
    let config = rustls::ClientConfig::builder().with_root_certificates(certificate.roots());
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from(certificate.name.clone()).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
    stream
}

async fn get(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> String {
    let (mut sender, connection) = conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(async { connection.await.ok() });
    let request = Request::builder().uri("/").header("host", "localhost");
    let request = request.body(Full::new(Bytes::new())).unwrap();
    text(sender.send_request(request).await.unwrap()).await
}

async fn text(response: Response<Incoming>) -> String {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    if status.is_success() { body } else { format!("{status}: {body}") }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, http2: bool) {
    let (stream, service) = (TokioIo::new(stream), service_fn(answer));
    // What goes wrong with it the client's test sees.
    if http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(stream, service)
            .await
            .ok();
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await.ok();
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_call = request.headers().get("content-type").is_some_and(|it| it == "application/grpc");
    let text = if is_call { format!("called by {:?}", request.version()) } else { "hello".to_owned() };
    let response =
        Response::builder().header("content-type", if is_call { "application/grpc" } else { "text/plain" });
    // hyper asks for nothing that could fail here.
    Ok(response.body(Full::new(text.into())).unwrap_or_default())
}
