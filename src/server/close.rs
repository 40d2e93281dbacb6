//! The end of a connection, such that the last answer arrives.
//!
//! A socket that is closed while something unread is in it, or arrives after, sends a reset, and a reset may
//! overtake an answer that is on its way and destroy it (RFC 9112, section 9.6). So: the end of our side
//! first, then what the client still sends is read and dropped until it ends too, within a limit.

use std::fmt::Display;
use std::io;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{Downstream, Server};
use crate::proxy::{RequestId, told};
use crate::restart::End;

/// What a client is told that did not send its request in time (RFC 9110, section 15.5.9).
pub(super) fn request_timeout(id: RequestId) -> String {
    last_answer(StatusCode::REQUEST_TIMEOUT, &"the request did not come in time", id)
}

/// An answer that says what is wrong with what came in place of a request, and behind which nothing follows.
pub(super) fn last_answer(status: StatusCode, why: &dyn Display, id: RequestId) -> String {
    let code = status.as_u16();
    let reason = status.canonical_reason().unwrap_or("Error");
    let text = told(&format!("{code} {reason}: {why}"), id);
    format!(
        "HTTP/1.1 {code} {reason}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
         x-request-id: {id}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    )
}

/// What a client is told that speaks HTTP/2 where that is not spoken (RFC 9110, section 15.6.6).
pub(super) const VERSION_NOT_SUPPORTED: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\n\
    content-type: text/plain; charset=utf-8\r\n\
    content-length: 64\r\n\
    connection: close\r\n\
    \r\n\
    505 HTTP Version Not Supported: HTTP/1.1 is what is spoken here\n";

/// What a client is told that speaks plain HTTP where TLS is spoken.
pub(super) const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain; charset=utf-8\r\n\
    content-length: 52\r\n\
    connection: close\r\n\
    \r\n\
    400 Bad Request: this port speaks TLS; use https://\n";

impl Server {
    /// Closes `stream`, and returns `end`.
    pub(super) async fn close(&self, stream: Downstream, end: End) -> End {
        self.close_with(stream, b"", end).await
    }

    /// Sends `words`, closes `stream`, and returns `end`.
    pub(super) async fn close_with(&self, mut stream: Downstream, words: &[u8], end: End) -> End {
        let closing = async {
            stream.write_all(words).await?;
            stream.shutdown().await?;
            let mut stream = stream.without_failed_tls();
            // Not in the future itself: every open connection would have room for it all its life.
            let mut rest = vec![0; 4096];
            while stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        // The client has had its time, and whatever went wrong, the connection is at its end.
        if let Ok(Err(error)) = timeout(self.config.linger_timeout, closing).await {
            tracing::trace!(%error, "a connection did not close in order");
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_whole_answers() {
        for words in [VERSION_NOT_SUPPORTED, NOT_TLS] {
            let text = String::from_utf8_lossy(words);
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{} bytes", body.len());
        }
    }
}
