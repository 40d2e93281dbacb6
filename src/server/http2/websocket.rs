//! WebSockets on a stream (RFC 8441), from servers that speak HTTP/1.
//!
//! The client's extended CONNECT becomes the GET that asks for a WebSocket (RFC 6455, section 4.1), with a key of
//! ours. The server's 101, if its proof is right, becomes a 200, and the stream carries the bytes from there on.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::rand;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode, request};

/// The name of the protocol, in `:protocol` and `Upgrade`.
pub(super) const NAME: &str = "websocket";

/// What a server adds to the key (RFC 6455, section 1.3).
const PROOF: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Makes the head that a server of HTTP/1 understands. An error is what the client is answered.
pub(super) fn ask(parts: &mut request::Parts) -> Result<HeaderValue, StatusCode> {
    let mut random = [0; 16];
    rand::fill(&mut random).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let key = HeaderValue::try_from(base64(&random)).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    parts.method = Method::GET;
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    parts.headers.insert(header::UPGRADE, HeaderValue::from_static(NAME));
    parts.headers.insert(header::SEC_WEBSOCKET_KEY, key.clone());
    Ok(key)
}

/// Turns the head of a 101 into that of a 200. False: the server has not understood the key.
pub(super) fn grant(key: &HeaderValue, headers: &mut HeaderMap) -> bool {
    let proof =
        base64(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), PROOF.as_bytes()].concat()).as_ref());
    let said = headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    said.is_some_and(|said| said.as_bytes() == proof.as_bytes())
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| bits << 8 | usize::from(group.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let letter = ALPHABET[bits >> (18 - 6 * i) & 63];
            text.push(if i <= group.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455, section 1.3.
    #[test]
    fn a_proof_is_that_of_the_key() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let headers =
            |proof| HeaderMap::from_iter([(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static(proof))]);
        assert!(grant(&key, &mut headers("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
        assert!(!grant(&key, &mut headers("t3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
        assert!(!grant(&key, &mut HeaderMap::new()));
    }
}
