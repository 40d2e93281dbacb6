//! How the proxy accepts, and who serves what it has accepted.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use loadtest::stage::certificate::Certificate;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::socket::{Client, Then, end, listen, pass};
use super::{Book, How, What, exchanges, frames};

/// How long nobody listens.
const GAP: Duration = Duration::from_millis(20);

/// How the plain port accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepting {
    /// As it should.
    Always,
    /// Again and again the port is closed for [`GAP`] when as many clients as there are have been accepted, so that none
    /// of them is in the queue, and bound again.
    Gaps { clients: usize, gaps: usize },
    /// Again and again the listener is closed with all the clients that there are in its queue, while another listens at
    /// the same port.
    Dropping { clients: usize, drops: usize },
}

/// A certificate and its key.
#[derive(Clone)]
pub(super) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

impl Identity {
    pub(super) fn new(certificate: &Certificate) -> Identity {
        let chain = CertificateDer::pem_file_iter(&certificate.chain).unwrap();
        Identity {
            chain: chain.collect::<Result<_, _>>().unwrap(),
            key: Arc::new(PrivateKeyDer::from_pem_file(&certificate.key).unwrap()),
        }
    }

    /// Each has sessions of its own.
    fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.unwrap().with_no_client_auth();
        let mut config = builder.with_single_cert(self.chain.clone(), self.key.clone_key()).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

#[derive(Clone)]
pub(super) struct Proxy {
    pub(super) upstream: SocketAddr,
    pub(super) tls: Identity,
    pub(super) book: Arc<Book>,
}

impl Proxy {
    pub(super) async fn serve(self, plain: TcpListener, tls: TcpListener) {
        tokio::join!(self.accept_plain(plain), self.accept_tls(tls));
    }

    async fn accept_tls(&self, listener: TcpListener) {
        let kept = self.tls.acceptor();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = if self.book.plan.forgets_sessions { self.tls.acceptor() } else { kept.clone() };
            self.spawn(stream, Some(acceptor));
        }
    }

    async fn accept_plain(&self, mut listener: TcpListener) {
        let address = listener.local_addr().unwrap();
        match self.book.plan.accepting {
            Accepting::Always => {}
            Accepting::Gaps { clients, gaps } => {
                for _ in 0..gaps {
                    let accepted = accept_all(&listener, clients).await;
                    drop(listener);
                    accepted.into_iter().for_each(|stream| self.spawn(stream, None));
                    // No handshake is possible with who is not let in: the time is the fault.
                    sleep(GAP).await;
                    listener = listen(address);
                }
                self.book.end_the_run();
            }
            Accepting::Dropping { clients, drops } => {
                for _ in 0..drops {
                    let accepted = accept_all(&listener, clients).await;
                    accepted.into_iter().for_each(|stream| self.spawn(stream, None));
                    while queued(address) < clients {
                        // The kernel tells nobody how long its queue is: it must be asked.
                        sleep(Duration::from_millis(1)).await;
                    }
                    let next = listen(address);
                    (0..clients).for_each(|_| self.book.plant(0, 0));
                    drop(std::mem::replace(&mut listener, next));
                }
                self.book.end_the_run();
            }
        }
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            self.spawn(stream, None);
        }
    }

    fn spawn(&self, mut stream: TcpStream, tls: Option<TlsAcceptor>) {
        let proxy = self.clone();
        spawn_local(async move {
            let Ok(peer) = stream.peer_addr() else { return };
            stream.set_nodelay(true).unwrap();
            if let Some(How::Bytes(tamper)) = proxy.book.next(What::Connection) {
                let (bytes, then) = tamper(&[]);
                proxy.book.plant(peer.port(), bytes.len());
                pass(&mut stream, &bytes).await;
                end(stream, then).await;
                return;
            }
            let Some(acceptor) = tls else { return proxy.connection(stream, peer.port(), false).await };
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            proxy.connection(stream, peer.port(), http2).await;
        });
    }

    async fn connection<C: Client>(&self, mut client: C, port: u16, http2: bool) {
        let mut death = self.book.death.subscribe();
        let served = async {
            let then = if http2 {
                frames::serve(&mut client, port, &self.book, self.upstream).await
            } else {
                exchanges::serve(&mut client, port, &self.book, self.upstream).await
            };
            if then == Then::Hang {
                std::future::pending::<()>().await;
            }
            then
        };
        let then = tokio::select! {
            then = served => then,
            _ = death.changed() => Then::Reset,
        };
        end(client, then).await;
    }
}

async fn accept_all(listener: &TcpListener, clients: usize) -> Vec<TcpStream> {
    let mut accepted = Vec::new();
    while accepted.len() < clients {
        accepted.push(listener.accept().await.unwrap().0);
    }
    accepted
}

/// How many connections wait to be accepted: the kernel has it as what a listening socket has received.
fn queued(address: SocketAddr) -> usize {
    let port = format!(":{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let listening = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut listening = listening.filter(|cells| cells[1].ends_with(&port) && cells[3] == "0A");
    let cells = listening.next().unwrap();
    usize::from_str_radix(cells[4].split(':').nth(1).unwrap(), 16).unwrap()
}
