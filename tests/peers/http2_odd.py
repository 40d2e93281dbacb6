"""HTTP/2 clients that do what none should, in frames made by hand (hyperframe, hpack), and what they must get.

    http2_odd.py --port PORT [--ca FILE] [--acknowledge SECONDS] [CASE ...]

After each case an ordinary client must be served as if nothing had been. `reset` in an expectation is RST_STREAM, `end`
a GOAWAY with an error and the end of the connection, `answer` a status. A server that says more than one thing is
judged by the first that is expected."""

import socket
import struct
import sys
import time

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

import peer

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Ended(Exception):
    """The server has ended the connection."""


class Raw:
    """One connection of frames."""

    def __init__(self, options, preface=True):
        self.options = options
        self.socket = socket.create_connection((options.host, options.port), peer.PATIENCE)
        self.socket.settimeout(peer.PATIENCE)
        context = peer.tls(options, "h2")
        if context:
            self.socket = context.wrap_socket(self.socket, server_hostname=options.name)
        self.decoder, self.encoder, self.buffer = hpack.Decoder(), hpack.Encoder(), b""
        self.goaway, self.resets, self.answers, self.pings = None, {}, {}, 0
        self.acknowledges = True
        if preface:
            self.write(PREFACE + SettingsFrame(0).serialize())

    def write(self, data):
        try:
            self.socket.sendall(data)
        except OSError as error:
            # What it had to say may still be there to read.
            raise Ended(repr(error)) from error

    def send(self, *frames):
        self.write(b"".join(frame.serialize() for frame in frames))

    def head(self, stream, fields=None, end=True, path="/bytes?n=10", method="GET"):
        fields = fields or [
            (":method", method),
            (":scheme", "https" if self.options.ca else "http"),
            (":path", path),
            (":authority", f"{self.options.name}:{self.options.port}"),
        ]
        flags = ["END_HEADERS"] + (["END_STREAM"] if end else [])
        return HeadersFrame(stream, self.encoder.encode(fields, huffman=False), flags=flags)

    def frame(self):
        """The next frame."""
        while True:
            if len(self.buffer) >= 9:
                frame, length = Frame.parse_frame_header(memoryview(self.buffer[:9]))
                if len(self.buffer) >= 9 + length:
                    frame.parse_body(memoryview(self.buffer[9 : 9 + length]))
                    self.buffer = self.buffer[9 + length :]
                    return frame
            try:
                data = self.socket.recv(65536)
            except TimeoutError as error:
                raise AssertionError("the server says nothing") from error
            except OSError as error:
                raise Ended(repr(error)) from error
            if not data:
                raise Ended("in good order")
            self.buffer += data

    def take(self):
        """Takes the next frame and does as it says."""
        frame = self.frame()
        match frame:
            case GoAwayFrame():
                self.goaway = frame
            case RstStreamFrame():
                self.resets[frame.stream_id] = frame.error_code
            case HeadersFrame():
                assert "END_HEADERS" in frame.flags
                fields = dict(self.decoder.decode(frame.data))
                self.answers.setdefault(frame.stream_id, int(fields.get(":status", 0)))
            case SettingsFrame() if "ACK" not in frame.flags and self.acknowledges:
                self.send(SettingsFrame(0, flags=["ACK"]))
            case PingFrame() if "ACK" not in frame.flags and self.acknowledges:
                self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]))
            case PingFrame():
                self.pings += 1
        return frame

    def until_end(self):
        """Takes what comes until the server ends the connection; how it said why, if it did."""
        try:
            while True:
                self.take()
        except Ended:
            return self.goaway.error_code if self.goaway else None

    def until(self, found):
        while not found():
            self.take()


def ordinary(options):
    """A request as it should be, on a connection of its own."""
    raw = Raw(options)
    raw.send(raw.head(1))
    raw.until(lambda: 1 in raw.answers)
    assert raw.answers[1] == 200, f"then an ordinary client got {raw.answers[1]}"
    raw.send(GoAwayFrame(0))
    raw.socket.close()


def ends(raw, *codes):
    """The server ends the connection, and says why with one of these codes, or does not get to say it."""
    code = raw.until_end()
    assert code is None or code in codes, f"it ended with {code}, not one of {codes}"


def flood(raw, frames, times):
    """The same again and again: it ends before all are sent or after; a well-behaved reader in between."""
    block = b"".join(frame.serialize() for frame in frames)
    try:
        for _ in range(times):
            raw.write(block)
    except Ended:
        pass
    ends(raw, 0xB, 0x1)


def refused(raw, stream, *statuses):
    """The server refuses the stream: by a reset, by a status, or by the end of the connection with PROTOCOL_ERROR."""
    try:
        raw.until(lambda: stream in raw.resets or stream in raw.answers)
    except Ended:
        assert raw.goaway and raw.goaway.error_code in (0x1, 0x9, 0xB), "it ended without a word"
        return
    if stream in raw.answers:
        assert raw.answers[stream] in statuses, f"it answered {raw.answers[stream]}"
    else:
        assert raw.resets[stream] in (0x1, 0x7), f"it was reset with {raw.resets[stream]}"


def rapid_reset(options):
    """CVE-2023-44487: requests that are taken back at once."""
    raw = Raw(options)
    try:
        for i in range(20_000):
            stream = 2 * i + 1
            raw.send(raw.head(stream, path="/slow?ms=1000"), RstStreamFrame(stream, error_code=8))
    except Ended:
        pass
    ends(raw, 0xB, 0x1)


def made_you_reset(options, provoke):
    """CVE-2025-8671: the server is made to take requests back itself, which frees their places."""
    raw = Raw(options)
    try:
        for i in range(20_000):
            stream = 2 * i + 1
            raw.send(raw.head(stream, path="/slow?ms=1000", end=False), *provoke(stream))
    except Ended:
        pass
    ends(raw, 0xB, 0x1, 0x3, 0x5)


def made_you_reset_by_no_window(options):
    made_you_reset(options, lambda stream: [WindowUpdateFrame(stream, window_increment=1), zero_window(stream)])


class Bytes:
    """A frame as bytes, for what hyperframe refuses to make."""

    def __init__(self, kind, flags, stream, body):
        self.data = struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body

    def serialize(self):
        return self.data


def zero_window(stream):
    return Bytes(8, 0, stream, struct.pack(">I", 0))


def made_you_reset_by_overflow(options):
    made_you_reset(options, lambda stream: [WindowUpdateFrame(stream, window_increment=(1 << 31) - 1)])


def made_you_reset_by_data_after_end(options):
    """DATA on a stream whose end was said."""
    raw = Raw(options)
    try:
        for i in range(20_000):
            stream = 2 * i + 1
            raw.send(raw.head(stream, path="/slow?ms=1000"), DataFrame(stream, b"x"))
    except Ended:
        pass
    ends(raw, 0xB, 0x1, 0x5)


def ping_flood(options):
    flood(Raw(options), [PingFrame(0, b"12345678")] * 100, 1000)


def settings_flood(options):
    flood(Raw(options), [SettingsFrame(0, settings={4: 65535})] * 100, 1000)


def priority_flood(options):
    flood(Raw(options), [PriorityFrame(1, depends_on=0, stream_weight=5)] * 100, 1000)


def unknown_frame_flood(options):
    flood(Raw(options), [Bytes(0xEE, 0, 0, b"what")] * 100, 1000)


def empty_data_flood(options):
    raw = Raw(options)
    raw.send(raw.head(1, method="POST", path="/echo", end=False))
    flood(raw, [DataFrame(1, b"")] * 100, 1000)


def window_update_flood(options):
    """Of one byte each."""
    flood(Raw(options), [WindowUpdateFrame(0, window_increment=1)] * 100, 3000)


def continuation_flood(options):
    """CVE-2024-27316: a head that never ends."""
    raw = Raw(options)
    head = raw.encoder.encode([(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "test")])
    raw.send(HeadersFrame(1, head, flags=["END_STREAM"]))
    line = b"".join(b"\x00\x08x-%06d\x64%b" % (i, b"y" * 100) for i in range(100))
    try:
        for _ in range(2000):
            raw.send(ContinuationFrame(1, line))
    except Ended:
        pass
    ends(raw, 0xB, 0x1)


def empty_continuation_flood(options):
    raw = Raw(options)
    raw.send(HeadersFrame(1, raw.encoder.encode([(":method", "GET")]), flags=["END_STREAM"]))
    flood(raw, [ContinuationFrame(1, b"")] * 100, 1000)


def hpack_bomb(options):
    """One large field in the table, named thousands of times."""
    raw = Raw(options)
    fields = [(":method", "GET"), (":scheme", "http"), (":path", "/bytes?n=1"), (":authority", "test")]
    head = raw.encoder.encode(fields, huffman=False) + b"\x40\x03bom\x7f\xa1\x1e" + b"b" * 4000
    raw.send(HeadersFrame(1, head + b"\xbe" * 12_000, flags=["END_STREAM", "END_HEADERS"]))
    refused(raw, 1, 431, 400)


def settings_never_acknowledged(options):
    """The server does not wait for ever: it ends the connection."""
    raw = Raw(options)
    raw.acknowledges = False
    raw.send(raw.head(1))
    begun = time.monotonic()
    ends(raw, 0x4, 0x0)
    if options.acknowledge:
        waited = time.monotonic() - begun
        assert waited >= options.acknowledge * 0.9, f"it ended after {waited} s"


def preface_never_sent(options):
    """Nothing at all after the connection is made."""
    assert Raw(options, preface=False).until_end() in (None, 0x0, 0x1)


def preface_of_another_kind(options):
    raw = Raw(options, preface=False)
    raw.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\nX\r\n" + bytes(64))
    try:
        raw.until_end()
    except (AssertionError, ValueError, KeyError):
        # An answer in HTTP/1 is one too, as long as the connection ends.
        while raw.socket.recv(65536):
            pass


def preface_in_pieces(options):
    """Byte by byte: good, if slow."""
    raw = Raw(options, preface=False)
    raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in PREFACE + SettingsFrame(0).serialize():
        raw.write(bytes([byte]))
        # Each in a packet that the server reads by itself: this is the case, and nobody waits for it.
        time.sleep(0.002)
    raw.send(raw.head(1))
    raw.until(lambda: 1 in raw.answers)
    assert raw.answers[1] == 200


def nonsense(*fields, scheme="http", path="/bytes?n=1", method="GET", authority="test", instead=None):
    """A case with one head that must be refused, while the connection goes on for the others."""

    def case(options):
        raw = Raw(options)
        usual = [(":method", method), (":scheme", scheme), (":path", path), (":authority", authority)]
        raw.send(raw.head(1, instead or usual + list(fields)))
        refused(raw, 1, 400)

    return case


HEADS = {
    "connection": nonsense(("connection", "close")),
    "connection_keep_alive": nonsense(("connection", "keep-alive")),
    "keep_alive": nonsense(("keep-alive", "timeout=5")),
    "proxy_connection": nonsense(("proxy-connection", "keep-alive")),
    "transfer_encoding": nonsense(("transfer-encoding", "chunked")),
    "upgrade": nonsense(("upgrade", "websocket")),
    "te_gzip": nonsense(("te", "gzip")),
    "upper_case": nonsense(("X-Upper", "1")),
    "empty_name": nonsense(("", "1")),
    "space_in_name": nonsense(("x y", "1")),
    "colon_in_name": nonsense(("x:y", "1")),
    "newline_in_name": nonsense(("x\r\ny", "1")),
    "newline_in_value": nonsense(("x-y", "1\r\nx-evil: 1")),
    "nul_in_value": nonsense(("x-y", "1\x002")),
    "space_in_path": nonsense(path="/a b"),
    "newline_in_path": nonsense(path="/ HTTP/1.1\r\nx-evil: 1\r\n\r\nGET /"),
    "tab_in_path": nonsense(path="/a\tb"),
    "no_slash_in_path": nonsense(path="bytes"),
    "empty_path": nonsense(path=""),
    "space_in_method": nonsense(method="GET /evil"),
    "newline_in_method": nonsense(method="GET\r\n"),
    "newline_in_authority": nonsense(authority="test\r\nx-evil: 1"),
    "user_in_authority": nonsense(authority="user@test"),
    "two_lengths": nonsense(("content-length", "0"), ("content-length", "5")),
    "length_nonsense": nonsense(("content-length", "+0")),
    "length_without_body": nonsense(("content-length", "5")),
    "host_differs": nonsense(("host", "other")),
    "pseudo_after_field": nonsense(
        instead=[(":method", "GET"), ("x-y", "1"), (":scheme", "http"), (":path", "/"), (":authority", "t")]
    ),
    "pseudo_twice": nonsense((":path", "/other")),
    "pseudo_unknown": nonsense((":evil", "1")),
    "pseudo_of_answers": nonsense((":status", "200")),
    "no_method": nonsense(instead=[(":scheme", "http"), (":path", "/"), (":authority", "t")]),
    "no_scheme": nonsense(instead=[(":method", "GET"), (":path", "/"), (":authority", "t")]),
    "no_path": nonsense(instead=[(":method", "GET"), (":scheme", "http"), (":authority", "t")]),
    "no_host_at_all": nonsense(instead=[(":method", "GET"), (":scheme", "http"), (":path", "/")]),
    "protocol_without_connect": nonsense((":protocol", "websocket")),
}


def body_longer_than_said(options):
    raw = Raw(options)
    fields = [(":method", "POST"), (":scheme", "http"), (":path", "/echo"), (":authority", "t"), ("content-length", "3")]
    raw.send(raw.head(1, fields, end=False), DataFrame(1, b"12345", flags=["END_STREAM"]))
    broken_off(raw, 1)


def body_shorter_than_said(options):
    raw = Raw(options)
    fields = [(":method", "POST"), (":scheme", "http"), (":path", "/echo"), (":authority", "t"), ("content-length", "9")]
    raw.send(raw.head(1, fields, end=False), DataFrame(1, b"12345", flags=["END_STREAM"]))
    broken_off(raw, 1)


def pseudo_in_trailers(options):
    raw = Raw(options)
    raw.send(
        raw.head(1, method="POST", path="/echo", end=False),
        DataFrame(1, b"12345"),
        HeadersFrame(1, raw.encoder.encode([(":path", "/evil")]), flags=["END_HEADERS", "END_STREAM"]),
    )
    # It is malformed; but h2 drops these fields of trailers and goes on, which harms nobody.
    raw.until(lambda: 1 in raw.resets or 1 in raw.answers)


def trailers_without_end(options):
    raw = Raw(options)
    raw.send(
        raw.head(1, method="POST", path="/echo", end=False),
        DataFrame(1, b"12345"),
        HeadersFrame(1, raw.encoder.encode([("x-y", "1")]), flags=["END_HEADERS"]),
    )
    broken_off(raw, 1)


def broken_off(raw, stream):
    """The head may have been answered already: but then its body does not end well."""
    try:
        while stream not in raw.resets:
            frame = raw.take()
            whole = frame.stream_id == stream and "END_STREAM" in frame.flags
            assert not whole or raw.answers.get(stream) == 400, f"a whole answer came: {raw.answers.get(stream)}"
            if whole:
                return
    except Ended:
        assert raw.goaway, "it ended without a word"


def protocol_error(*frames, codes=(0x1,)):
    """A case with frames after which the connection must end."""

    def case(options):
        raw = Raw(options)
        raw.send(*frames)
        ends(raw, *codes)

    return case


FRAMES = {
    "data_on_stream_zero": protocol_error(Bytes(0, 0, 0, b"x")),
    "data_on_idle_stream": protocol_error(DataFrame(1, b"x"), codes=(0x1, 0x5)),
    "even_stream": protocol_error(Bytes(1, 5, 2, b"\x82\x84\x86\x41\x04test")),
    "headers_on_stream_zero": protocol_error(Bytes(1, 5, 0, b"\x82\x84\x86\x41\x04test")),
    "frame_too_large": protocol_error(Bytes(0, 0, 1, bytes(20_000)), codes=(0x1, 0x6)),
    "settings_of_five_bytes": protocol_error(Bytes(4, 0, 0, bytes(5)), codes=(0x1, 0x6)),
    "settings_on_a_stream": protocol_error(Bytes(4, 0, 1, b"")),
    "settings_ack_with_body": protocol_error(Bytes(4, 1, 0, bytes(6)), codes=(0x1, 0x6)),
    "settings_window_too_large": protocol_error(
        Bytes(4, 0, 0, struct.pack(">HI", 4, 1 << 31)), codes=(0x1, 0x3)
    ),
    "ping_of_seven_bytes": protocol_error(Bytes(6, 0, 0, bytes(7)), codes=(0x1, 0x6)),
    "window_overflow": protocol_error(
        WindowUpdateFrame(0, window_increment=(1 << 31) - 1), codes=(0x1, 0x3)
    ),
    "window_zero": protocol_error(Bytes(8, 0, 0, bytes(4))),
    "continuation_alone": protocol_error(Bytes(9, 4, 1, b"\x82")),
    "head_interrupted": protocol_error(Bytes(1, 1, 1, b"\x82"), PingFrame(0, bytes(8))),
    "push_promise": protocol_error(Bytes(5, 4, 1, bytes(4) + b"\x82")),
    "reset_of_idle_stream": protocol_error(RstStreamFrame(1, error_code=8)),
    "hpack_nonsense": protocol_error(Bytes(1, 5, 1, b"\xff\xff\xff\xff\xff\xff\xff"), codes=(0x1, 0x9)),
    "stream_number_falls": protocol_error(
        Bytes(1, 5, 5, b"\x82\x84\x86\x41\x04test"), Bytes(1, 5, 3, b"\x82\x84\x86\x41\x04test"), codes=(0x1, 0x5)
    ),
}

CASES = {
    one.__name__: one
    for one in [
        rapid_reset,
        made_you_reset_by_no_window,
        made_you_reset_by_overflow,
        made_you_reset_by_data_after_end,
        ping_flood,
        settings_flood,
        priority_flood,
        unknown_frame_flood,
        empty_data_flood,
        window_update_flood,
        continuation_flood,
        empty_continuation_flood,
        hpack_bomb,
        settings_never_acknowledged,
        preface_never_sent,
        preface_of_another_kind,
        preface_in_pieces,
        body_longer_than_said,
        body_shorter_than_said,
        pseudo_in_trailers,
        trailers_without_end,
    ]
}
CASES |= {f"head_{name}": case for name, case in HEADS.items()}
CASES |= {f"frame_{name}": case for name, case in FRAMES.items()}


def main():
    parser = peer.arguments(__doc__)
    parser.add_argument("--acknowledge", type=float, help="the server's `http2.ack_timeout`, seconds")
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()
    report = peer.Report()
    for name in options.cases or CASES:
        begun = time.monotonic()
        try:
            try:
                CASES[name](options)
            except Ended as ended:
                raise AssertionError(f"the connection ended: {ended}") from ended
            ordinary(options)
            report.count()
        except (AssertionError, OSError, Ended) as error:
            report.fail(f"{name}: {error!r}")
        if time.monotonic() - begun > 3:
            print(f"{name} took {time.monotonic() - begun:.1f} s", file=sys.stderr)
    report.end()


if __name__ == "__main__":
    main()
