"""Strict HTTP/2 clients on the library `h2`: many streams on each connection, over TLS or with prior knowledge.

They do as RFC 9113, section 6.8, says. After a GOAWAY no stream is begun on its connection; one above the last stream
id was not processed and is asked for anew on a new connection (counted as `again`); every other must be answered in
full. All else has failed: a stream that is reset, a body that differs, a connection that ends without a GOAWAY, be it
idle, or with an error in it."""

import asyncio
import random

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

import peer


class Connection(h2.connection.H2Connection):
    """The library holds a connection closed at the first GOAWAY, and takes no answers any more. Ours goes on."""

    def _receive_goaway_frame(self, frame):
        event = h2.events.ConnectionTerminated()
        event.error_code, event.last_stream_id = frame.error_code, frame.last_stream_id
        event.additional_data = frame.additional_data or None
        return [], [event]


class Unprocessed(Exception):
    """The server says that it has not processed the stream."""


class Stream:
    def __init__(self):
        self.headers, self.body, self.trailers = None, bytearray(), None
        self.ended = asyncio.get_running_loop().create_future()
        self.room = asyncio.Event()


class Client:
    """One connection."""

    def __init__(self, options, report, reader, writer):
        self.options, self.report, self.reader, self.writer = options, report, reader, writer
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.h2 = Connection(config)
        self.streams, self.last, self.reading = {}, None, None
        self.ended = False

    @classmethod
    async def connect(cls, options, report, context):
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(
                options.host, options.port, ssl=context, server_hostname=options.name if context else None
            ),
            peer.PATIENCE,
        )
        if context:
            chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
            assert chosen == "h2", f"ALPN chose {chosen}"
        client = cls(options, report, reader, writer)
        client.h2.initiate_connection()
        client.h2.increment_flow_control_window(1 << 20)
        await client.flush()
        client.reading = asyncio.create_task(client.read())
        report.count("connections")
        return client

    @property
    def usable(self):
        return self.last is None and not self.ended

    async def flush(self):
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()

    async def read(self):
        problem = None
        try:
            while data := await self.reader.read(65536):
                for event in self.h2.receive_data(data):
                    self.take(event)
                await self.flush()
        except OSError as error:
            problem = repr(error)
        except (h2.exceptions.H2Error, AssertionError) as error:
            problem, self.last = repr(error), None
        self.ended = True
        if problem is None and self.last is None and not self.closing:
            problem = "the connection ended without a GOAWAY"
        for stream in self.streams.values():
            self.break_off(stream, f"the connection ended under it ({problem or 'after its GOAWAY'})")
        # After its GOAWAY a server may go before it has read all that we say of windows and pings.
        if problem and not self.closing and self.last is None:
            self.report.fail(problem)
        self.writer.close()

    closing = False

    def break_off(self, stream, why):
        if not stream.ended.done():
            stream.ended.set_exception(ConnectionError(why))
        stream.room.set()

    def take(self, event):
        stream = self.streams.get(getattr(event, "stream_id", None))
        match event:
            case h2.events.ResponseReceived():
                stream.headers = dict(event.headers)
            case h2.events.DataReceived():
                stream.body += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                stream.trailers = dict(event.headers)
            case h2.events.StreamEnded():
                stream.ended.set_result(None)
            case h2.events.StreamReset():
                self.break_off(stream, f"reset with {event.error_code}")
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                for one in self.streams.values():
                    one.room.set()
            case h2.events.ConnectionTerminated():
                self.goaway(event)

    def goaway(self, event):
        self.report.count("goaways")
        assert event.error_code == 0, f"GOAWAY with {event.error_code}: {event.additional_data}"
        assert self.last is None or event.last_stream_id <= self.last, "a GOAWAY takes back another"
        self.last = event.last_stream_id
        for number, stream in self.streams.items():
            if number > self.last and not stream.ended.done():
                stream.ended.set_exception(Unprocessed())
                stream.room.set()

    async def request(self, method, path, body=None):
        number = self.h2.get_next_available_stream_id()
        stream = self.streams[number] = Stream()
        headers = [
            (":method", method),
            (":scheme", "https" if self.options.ca else "http"),
            (":authority", f"{self.options.name}:{self.options.port}"),
            (":path", path),
        ]
        try:
            self.h2.send_headers(number, headers, end_stream=body is None)
            await self.flush()
            if body is not None:
                await self.send(number, stream, body)
            await asyncio.wait_for(asyncio.shield(stream.ended), peer.PATIENCE)
        finally:
            del self.streams[number]
            if stream.ended.done():
                stream.ended.exception()
        return stream

    async def send(self, number, stream, body):
        at = 0
        while at < len(body) or not body:
            if stream.ended.done():
                stream.ended.result()
                return
            most = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if most <= 0 and body:
                stream.room.clear()
                await asyncio.wait_for(stream.room.wait(), peer.PATIENCE)
                continue
            block = body[at : at + most]
            at += len(block)
            self.h2.send_data(number, block, end_stream=at == len(body))
            await self.flush()
            if not body:
                break

    async def close(self):
        self.closing = True
        if not self.ended:
            self.h2.close_connection()
            await self.flush()
            self.writer.close()
        await self.reading


class Lane:
    """A connection, its successors, and those who share it."""

    def __init__(self, options, report, number):
        self.options, self.report, self.number = options, report, number
        self.context, self.client, self.lock = peer.tls(options, "h2"), None, asyncio.Lock()
        self.old = []

    async def usable(self):
        async with self.lock:
            if not self.client or not self.client.usable:
                if self.client:
                    self.old.append(self.client)
                self.client = await Client.connect(self.options, self.report, self.context)
        # No await between this and the first frame of a stream.
        return self.client

    async def ask(self, kind, seed):
        n = [0, 1, 1000, 30_000, 300_000][seed % 5] if kind == 2 else 1000
        expected = peer.noise(seed * 7919 % 200_000, seed) if kind == 3 else b"x" * n
        while True:
            client = await self.usable()
            while not client.usable:
                client = await self.usable()
            try:
                if kind == 3:
                    stream = await client.request("POST", "/echo", expected)
                else:
                    stream = await client.request("GET", f"/bytes?n={n}")
            except Unprocessed:
                self.report.count("again")
                continue
            assert stream.headers and stream.headers[":status"] == "200", stream.headers
            assert stream.body == expected, f"a body of {len(stream.body)} bytes instead of {len(expected)}"
            self.report.count()
            return

    async def run(self, stream, rests):
        chance = random.Random(self.number * 1000 + stream)
        turn = stream
        try:
            while not self.report.over.is_set():
                turn += 1
                await self.ask(turn % 4, turn)
                if rests:
                    # The time that a person takes: this is the load, and nobody waits for it.
                    await asyncio.sleep(chance.uniform(0, rests))
        except (OSError, h2.exceptions.H2Error, AssertionError, TimeoutError, asyncio.TimeoutError) as error:
            self.report.fail(f"connection {self.number}, lane {stream}, turn {turn}: {error!r}")

    async def end(self):
        # What was told to end must end by itself; the last is ours to end.
        for client in self.old:
            await asyncio.wait_for(client.reading, peer.PATIENCE)
        if self.client:
            await self.client.close()


async def run(options):
    report = peer.Report()
    report.stop_with_stdin()
    lanes = [Lane(options, report, number) for number in range(options.connections + options.idle)]
    tasks = []
    for lane in lanes:
        busy = lane.number < options.connections
        for stream in range(options.streams if busy else 1):
            tasks.append(lane.run(stream, 0 if busy else options.rests))
    await asyncio.gather(*tasks)
    try:
        for lane in lanes:
            await lane.end()
    except (TimeoutError, asyncio.TimeoutError):
        report.fail("a connection that was told to go does not end")
    report.end()


def main():
    parser = peer.arguments(__doc__)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--idle", type=int, default=0, help="connections that rest between two requests")
    parser.add_argument("--rests", type=float, default=0.6, help="how long these rest at most, seconds")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
