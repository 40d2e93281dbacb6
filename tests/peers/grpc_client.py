"""Strict gRPC clients (grpcio) of `grpc_server.py`: every message, status, detail and metadata is checked, and no call
that a server may have seen is ever tried again: there is no retry policy. What gRPC calls transparent retries are on, as
they are wherever gRPC runs (gRFC A6): grpc-core gives a call to a connection and only then hears of its GOAWAY, fails it
before a byte of it is written, and without them that is the caller's to mend. No server can help it (grpc issue 19969).

`--once` makes one call of every kind. Otherwise busy ones make calls of all kinds in turn, and long ones hold a
bidirectional stream each from the beginning to the end."""

import asyncio
import hashlib
import itertools
import json
import os
import random
import time

import grpc

import peer

OPTIONS = [
    ("grpc.enable_retries", 1),
    ("grpc.max_metadata_size", 64 << 10),
    ("grpc.absolute_max_metadata_size", 64 << 10),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 8 << 20),
]
# Base64 makes 16 KiB of it.
BLOB = peer.noise(12 << 10, "blob")
NUMBERS = itertools.count()


def call():
    return (("x-call", f"{os.getpid()}-{next(NUMBERS)}"),)


class Client:
    """One channel."""

    def __init__(self, options, report):
        self.report = report
        target, settings = f"{options.host}:{options.port}", list(OPTIONS)
        if options.ca:
            with open(options.ca, "rb") as file:
                trust = grpc.ssl_channel_credentials(file.read())
            settings.append(("grpc.ssl_target_name_override", options.name))
            self.channel = grpc.aio.secure_channel(target, trust, settings)
            self.blocking = grpc.secure_channel(target, trust, settings)
        else:
            self.channel = grpc.aio.insecure_channel(target, settings)
            self.blocking = grpc.insecure_channel(target, settings)

    def unary(self, name, request, metadata=(), timeout=peer.PATIENCE):
        return self.channel.unary_unary(f"/exuvia.Peer/{name}")(request, timeout=timeout, metadata=call() + metadata)

    def stream_unary(self, name, requests):
        method = self.channel.stream_unary(f"/exuvia.Peer/{name}")
        return method(requests, timeout=peer.PATIENCE, metadata=call())

    def unary_stream(self, name, request):
        method = self.channel.unary_stream(f"/exuvia.Peer/{name}")
        return method(request, timeout=peer.PATIENCE, metadata=call())

    def bidi(self, name, requests=None, timeout=peer.PATIENCE):
        return self.channel.stream_stream(f"/exuvia.Peer/{name}")(requests, timeout=timeout, metadata=call())

    async def calls_unary(self, turn):
        request = peer.noise([0, 1, 100, 70_000][turn % 4], turn)
        assert await self.unary("Unary", request) == request[::-1]

    async def calls_metadata(self, _):
        made = self.unary("Unary", b"abc", (("x-blob-bin", BLOB),))
        assert await made == b"cba"
        first, last = dict(await made.initial_metadata()), dict(await made.trailing_metadata())
        assert first.get("x-blob-bin") == BLOB, "the first metadata differs"
        assert last.get("x-trail-bin") == BLOB[::-1], "the trailing metadata differs"

    async def calls_client_stream(self, turn):
        messages = [peer.noise(1000 * i + turn % 10, i) for i in range(20)]

        async def requests():
            for message in messages:
                yield message

        expected = f"20 {hashlib.sha256(b''.join(messages)).hexdigest()}".encode()
        assert await self.stream_unary("ClientStream", requests()) == expected

    async def calls_server_stream(self, turn):
        order = {"count": 20, "size": 1 + turn * 7919 % 30_000}
        made = self.unary_stream("ServerStream", json.dumps(order).encode())
        got = [message async for message in made]
        assert got == [peer.noise(order["size"], i) for i in range(20)], f"{len(got)} messages, or they differ"
        assert dict(await made.trailing_metadata()).get("x-count") == "20"

    async def calls_bidi(self, turn):
        made = self.bidi("Bidi")
        for i in range(10):
            message = peer.noise(1 + (turn + i) * 911 % 20_000, i)
            await made.write(message)
            assert await made.read() == message[::-1]
        await made.done_writing()
        assert await made.read() is grpc.aio.EOF
        assert dict(await made.trailing_metadata()).get("x-count") == "10"

    async def fails(self, made, code, details):
        try:
            if hasattr(made, "__aiter__"):
                async for _ in made:
                    pass
            else:
                await made
        except grpc.aio.AioRpcError as error:
            same = error.code() == code and details in (None, error.details())
            assert same, (error.code(), error.details())
            return
        raise AssertionError(f"{code} did not come")

    async def calls_fail(self, turn):
        """Every status that there is, and details that are not ASCII."""
        codes = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
        code = codes[turn % len(codes)]
        details = f"turn {turn}: schön 100% \u2713\nsecond line"
        request = json.dumps({"code": code.value[0], "details": details}).encode()
        await self.fails(self.unary("Fail", request), code, details)

    async def calls_fail_late(self, _):
        made, got = self.unary_stream("FailLate", b""), []
        try:
            async for message in made:
                got.append(message)
            raise AssertionError("no error came")
        except grpc.aio.AioRpcError as error:
            assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "after three")
        assert got == [b"0", b"1", b"2"], got

    def fail_early(self):
        """In the older API: the other one makes INTERNAL of it when a message meets the end of the call."""

        def requests():
            while True:
                yield bytes(1000)
                time.sleep(0.001)

        made = self.blocking.stream_stream("/exuvia.Peer/FailEarly")(
            requests(), timeout=peer.PATIENCE, metadata=call()
        )
        try:
            for _ in made:
                raise AssertionError("a message came")
        except grpc.RpcError as error:
            return error.code(), error.details()
        raise AssertionError("no error came")

    async def calls_fail_early(self, _):
        said = await asyncio.to_thread(self.fail_early)
        assert said == (grpc.StatusCode.FAILED_PRECONDITION, "no more of this"), said

    async def calls_deadline(self, _):
        left = float(await self.unary("Deadline", b"", timeout=17))
        # gRPC rounds what it sends up.
        assert 0 < left < 18, f"{left} s are left of 17"

    CALLS = [
        calls_unary,
        calls_metadata,
        calls_client_stream,
        calls_server_stream,
        calls_bidi,
        calls_fail,
        calls_fail_late,
        calls_fail_early,
        calls_deadline,
    ]

    async def call_all(self, number):
        turn = number
        while not self.report.over.is_set():
            turn += 1
            await self.guarded(turn, self.CALLS[turn % len(self.CALLS)](self, turn))
            await asyncio.sleep(random.uniform(0, 0.01))

    async def hold(self, number):
        """One stream for the whole time: it must end by its own right end."""
        made, turn = self.bidi("Bidi", timeout=None), 0
        while turn == 0 or not self.report.over.is_set():
            message = f"{number}, {turn}".encode()
            await made.write(message)
            back = await asyncio.wait_for(made.read(), peer.PATIENCE)
            assert back == message[::-1], f"{back} for {message}"
            turn += 1
            self.report.count("held", int(turn == 1))
            await asyncio.sleep(0.02)
        await made.done_writing()
        assert await asyncio.wait_for(made.read(), peer.PATIENCE) is grpc.aio.EOF
        assert await made.code() is grpc.StatusCode.OK
        assert dict(await made.trailing_metadata()).get("x-count") == str(turn)

    async def cancels(self):
        """A deadline that passes and a call that is cancelled are both heard of by the server."""
        # The library says it in words of its own, which differ.
        await self.fails(self.unary("Hang", b"", timeout=0.2), grpc.StatusCode.DEADLINE_EXCEEDED, None)
        made = self.unary("Hang", b"")
        await asyncio.sleep(0.2)
        made.cancel()
        for _ in range(int(peer.PATIENCE / 0.05)):
            if int(await self.unary("Cancelled", b"")) >= 2:
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the server has not heard that its calls were cancelled")

    async def guarded(self, what, work):
        try:
            await work
            self.report.count()
        except (grpc.aio.AioRpcError, AssertionError, TimeoutError, asyncio.TimeoutError) as error:
            said = (
                f"{error.code()}: {error.details()} ({error.debug_error_string()})"
                if isinstance(error, grpc.aio.AioRpcError)
                else repr(error)
            )
            self.report.fail(f"{what}, {work.__name__}: {said}")


async def run(options):
    report = peer.Report()
    if options.once:
        client = Client(options, report)
        # One for each status that there is.
        for turn in range(16):
            for one in Client.CALLS:
                await client.guarded(f"turn {turn}", one(client, turn))
        await client.guarded("once", client.cancels())
        report.end()
    report.stop_with_stdin()
    clients = [Client(options, report) for _ in range(options.channels)]
    work = [client.call_all(100 * c + i) for c, client in enumerate(clients) for i in range(options.busy)]
    work += [
        client.guarded(f"long {i} of {c}", client.hold(i))
        for c, client in enumerate(clients)
        for i in range(options.long)
    ]
    await asyncio.gather(*work)
    report.end()


def main():
    parser = peer.arguments(__doc__)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--busy", type=int, default=3, help="on each channel")
    parser.add_argument("--long", type=int, default=2, help="on each channel")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
