//! Sockets that can be ended in every way, and bytes taken from them piece by piece.

use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::server::TlsStream;

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing.
    GoOn,
    /// It is closed, under TLS by its word for it.
    Close,
    /// It is closed without TLS's word for it.
    Truncate,
    /// It is reset.
    Reset,
    /// Something comes that is not TLS.
    Garbage,
    /// A fatal alert of TLS comes, in the clear as before the handshake.
    Alert,
    /// Nothing comes any more, until the client gives up.
    Hang,
}

/// The client's side of a connection.
pub(super) trait Client: AsyncRead + AsyncWrite + Unpin {
    /// What is below TLS.
    fn tcp(&mut self) -> &mut TcpStream;
}

impl Client for TcpStream {
    fn tcp(&mut self) -> &mut TcpStream {
        self
    }
}

impl Client for TlsStream<TcpStream> {
    fn tcp(&mut self) -> &mut TcpStream {
        self.get_mut().0
    }
}

/// Ends a connection. That the client was faster is no error.
pub(super) async fn end<C: Client>(mut client: C, then: Then) {
    match then {
        Then::GoOn | Then::Close => drop(client.shutdown().await),
        Then::Truncate => {}
        Then::Reset => client.tcp().set_zero_linger().unwrap(),
        Then::Garbage => {
            drop(client.tcp().write_all(b"220 this is not TLS\r\n").await);
            until_closed(client.tcp()).await;
        }
        Then::Alert => {
            // Fatal, internal_error: RFC 8446, section 6.
            drop(client.tcp().write_all(&[21, 3, 3, 0, 2, 2, 80]).await);
            until_closed(client.tcp()).await;
        }
        Then::Hang => until_closed(client.tcp()).await,
    }
}

async fn until_closed(client: &mut TcpStream) {
    let mut unread = [0; 1024];
    while client.read(&mut unread).await.is_ok_and(|read| read > 0) {}
}

/// Bytes as they come, cut into pieces.
#[derive(Default)]
pub(super) struct Pieces(BytesMut);

impl Pieces {
    /// The next piece: `length` says how long the first one is, once it is whole. Nothing if the stream ends before.
    /// What has come is kept if this is dropped.
    pub(super) async fn next<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        length: fn(&[u8]) -> Option<usize>,
    ) -> Option<Vec<u8>> {
        loop {
            if let Some(length) = length(&self.0) {
                return Some(self.0.split_to(length).to_vec());
            }
            if stream.read_buf(&mut self.0).await.ok()? == 0 {
                return None;
            }
        }
    }
}

/// Passes bytes on; false if the other side is gone.
pub(super) async fn pass<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> bool {
    stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok()
}

/// Listens where others may listen, too.
pub(super) fn listen(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(1024).unwrap()
}
