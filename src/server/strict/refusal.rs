//! Why a request is refused before anyone reads it, and what the client is told.

use http::StatusCode;

use crate::proxy::RequestId;
use crate::server::close::last_answer;

/// What is wrong with a request. `Display` is what the client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Not `method SP target SP version` (RFC 9112, section 3).
    #[error("the request line is malformed")]
    RequestLine,
    /// Something in the target that is not visible ASCII, or a fragment.
    #[error("the request target has a character that must be encoded")]
    Target,
    /// Neither HTTP/1.1 nor HTTP/1.0.
    #[error("the HTTP version is not supported here; 1.1 and 1.0 are")]
    Version,
    /// CR without LF, or LF without CR (RFC 9112, section 2.2).
    #[error("a line does not end with CR and LF")]
    LineEnd,
    /// A line that begins with white space (RFC 9112, sections 2.2 and 5.2).
    #[error("a field is folded over two lines")]
    Folded,
    /// No name, or one that is no token.
    #[error("a field's name is not valid")]
    FieldName,
    /// White space in a name or before its colon (RFC 9112, section 5.1).
    #[error("there is space before a field's colon")]
    FieldSpace,
    /// A control character in a value (RFC 9110, section 5.5).
    #[error("a field's value has a control character")]
    Control,
    /// Not `1*DIGIT`, or too many of them (RFC 9110, section 8.6).
    #[error("Content-Length is not valid")]
    Length,
    /// More than one length, be they the same.
    #[error("there is more than one Content-Length")]
    LengthRepeated,
    /// Two lengths for one body (RFC 9112, section 6.3).
    #[error("there are both Content-Length and Transfer-Encoding")]
    LengthAndCoding,
    /// A coding besides `chunked` (RFC 9112, section 6.1).
    #[error("the request's transfer coding is not understood; chunked is")]
    CodingUnknown,
    /// A coding that does not tell where the body ends (RFC 9112, section 6.3).
    #[error("Transfer-Encoding is not valid")]
    Coding,
    /// More than one.
    #[error("there is more than one Transfer-Encoding")]
    CodingRepeated,
    /// HTTP/1.0 has no transfer codings (RFC 9112, section 6.1).
    #[error("Transfer-Encoding is not for HTTP/1.0")]
    CodingInHttp10,
    /// CONNECT has none (RFC 9110, section 9.3.6).
    #[error("CONNECT with a body")]
    ConnectBody,
    /// A request, or whatever it was, behind CONNECT, whose answer was not a tunnel.
    #[error("CONNECT was not waited for")]
    AfterConnect,
    /// Not plain hexadecimal digits, or too many of them (RFC 9112, section 7.1).
    #[error("a chunk's size is not valid")]
    ChunkSize,
    /// A chunk without CR and LF where its size says.
    #[error("a chunk does not end where its size says")]
    ChunkEnd,
    /// Too much, or a control character (RFC 9112, section 7.1.1).
    #[error("a chunk's extensions are too long or not valid")]
    ChunkExtension,
    /// Trailers over the limit.
    #[error("the trailers are too long or too many")]
    Trailers,
    /// A trailer that frames or routes a message that has been framed and routed (RFC 9110, section 6.5.1).
    #[error("there is a trailer that only a head may have")]
    TrailerName,
}

impl Refusal {
    /// Every one.
    pub(in crate::server) const ALL: [Refusal; 22] = [
        Refusal::RequestLine,
        Refusal::Target,
        Refusal::Version,
        Refusal::LineEnd,
        Refusal::Folded,
        Refusal::FieldName,
        Refusal::FieldSpace,
        Refusal::Control,
        Refusal::Length,
        Refusal::LengthRepeated,
        Refusal::LengthAndCoding,
        Refusal::CodingUnknown,
        Refusal::Coding,
        Refusal::CodingRepeated,
        Refusal::CodingInHttp10,
        Refusal::ConnectBody,
        Refusal::AfterConnect,
        Refusal::ChunkSize,
        Refusal::ChunkEnd,
        Refusal::ChunkExtension,
        Refusal::Trailers,
        Refusal::TrailerName,
    ];

    /// The table: each refusal's status and its label in logs.
    fn row(self) -> (StatusCode, &'static str) {
        const BAD: StatusCode = StatusCode::BAD_REQUEST;
        match self {
            Refusal::RequestLine => (BAD, "request_line"),
            Refusal::Target => (BAD, "target"),
            Refusal::Version => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "version"),
            Refusal::LineEnd => (BAD, "line_end"),
            Refusal::Folded => (BAD, "folded"),
            Refusal::FieldName => (BAD, "field_name"),
            Refusal::FieldSpace => (BAD, "field_space"),
            Refusal::Control => (BAD, "control"),
            Refusal::Length => (BAD, "length"),
            Refusal::LengthRepeated => (BAD, "length_repeated"),
            Refusal::LengthAndCoding => (BAD, "length_and_coding"),
            Refusal::CodingUnknown => (StatusCode::NOT_IMPLEMENTED, "coding_unknown"),
            Refusal::Coding => (BAD, "coding"),
            Refusal::CodingRepeated => (BAD, "coding_repeated"),
            Refusal::CodingInHttp10 => (BAD, "coding_in_http_1_0"),
            Refusal::ConnectBody => (BAD, "connect_body"),
            Refusal::AfterConnect => (BAD, "after_connect"),
            Refusal::ChunkSize => (BAD, "chunk_size"),
            Refusal::ChunkEnd => (BAD, "chunk_end"),
            Refusal::ChunkExtension => (BAD, "chunk_extension"),
            Refusal::Trailers => (BAD, "trailers"),
            Refusal::TrailerName => (BAD, "trailer_name"),
        }
    }

    /// The status that the client gets.
    pub fn status(self) -> StatusCode {
        self.row().0
    }

    /// The word for it in logs.
    pub fn label(self) -> &'static str {
        self.row().1
    }

    /// The answer that says it, after which the connection closes: where the next request begins is not known.
    pub(in crate::server) fn answer(self, id: RequestId) -> String {
        last_answer(self.status(), &self, id)
    }
}
