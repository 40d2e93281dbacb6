"""Strict WebSocket clients (the library `websockets`): busy ones, ones that only rest, and ones that come and go.

A connection that ends before its client wanted it to has failed, and so has every message that comes back changed, a
ping without its pong, and a close whose code or reason is not the one that was asked for."""

import asyncio
import random

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

import peer

LARGE = 1 << 20


class Clients:
    def __init__(self, options):
        self.options, self.report = options, peer.Report()
        self.context = peer.tls(options, "http/1.1")
        self.url = f"{'wss' if self.context else 'ws'}://{options.name}:{options.port}/echo"

    def connect(self):
        # No pings of its own accord: those that it sends are part of the talk.
        return connect(
            self.url,
            host=self.options.host,
            port=self.options.port,
            ssl=self.context,
            server_hostname=self.options.name if self.context else None,
            proxy=None,
            max_size=4 << 20,
            open_timeout=peer.PATIENCE,
            close_timeout=peer.PATIENCE,
            ping_interval=None,
            compression=None,
        )

    async def within(self, what):
        return await asyncio.wait_for(what, peer.PATIENCE)

    async def echo(self, connection, message, sent=None):
        await self.within(connection.send(message if sent is None else sent))
        back = await self.within(connection.recv())
        assert back == message, f"{len(back)} bytes came back for {len(message)}"
        self.report.count()

    async def talk(self, connection, number, turn):
        """One of everything, in turn."""
        kind = turn % 6
        if kind == 0:
            await self.echo(connection, f"text {number} {turn} ü")
        elif kind == 1:
            await self.echo(connection, peer.noise(random.randrange(1, 70_000), turn))
        elif kind == 2:
            pong = await connection.ping()
            await self.within(pong)
        elif kind == 3:
            parts = [f"part {i} of {number};" for i in range(5)]
            await self.echo(connection, "".join(parts), sent=parts)
        elif kind == 4 and turn % 24 == 4:
            await self.echo(connection, peer.noise(LARGE, turn))
        else:
            await self.echo(connection, b"")

    async def end(self, connection, number):
        """By the client or by the server, with 1000 or 1001."""
        code, reason = (1000, "enough") if number % 4 < 2 else (1001, "going away")
        if number % 2:
            await self.within(connection.close(code, reason))
            assert connection.close_code == code, connection.close_code
        else:
            await self.within(connection.send(f"close {code} {reason}"))
            try:
                unexpected = await self.within(connection.recv())
                raise AssertionError(f"{unexpected!r} instead of a close")
            except ConnectionClosed as closed:
                assert closed.rcvd and (closed.rcvd.code, closed.rcvd.reason) == (code, reason), closed
        self.report.count("closed")

    async def life(self, number, rests):
        async with self.connect() as connection:
            await self.echo(connection, "hello")
            self.report.count("lives")
            turn = number
            while not self.report.over.is_set():
                if rests:
                    await asyncio.sleep(0.05)
                    assert connection.state.name == "OPEN", f"{connection.state}: {connection.close_code}"
                else:
                    turn += 1
                    await self.talk(connection, number, turn)
                    await asyncio.sleep(0.005)
            await self.echo(connection, f"good bye from {number}")
            await self.end(connection, number)

    async def come_and_go(self, number):
        turn = 0
        while not self.report.over.is_set():
            async with self.connect() as connection:
                for _ in range(3):
                    turn += 1
                    await self.talk(connection, number, turn)
                await self.end(connection, turn)

    async def guarded(self, number, what):
        try:
            await what
        except (OSError, WebSocketException, AssertionError, TimeoutError, asyncio.TimeoutError) as error:
            self.report.fail(f"client {number}: {error!r}")

    async def run(self):
        self.report.stop_with_stdin()
        options = self.options
        lives = options.busy + options.idle
        tasks = [self.guarded(n, self.life(n, rests=n >= options.busy)) for n in range(lives)]
        tasks += [self.guarded(n, self.come_and_go(n)) for n in range(lives, lives + options.churn)]
        await asyncio.gather(*tasks)
        self.report.end()


def main():
    parser = peer.arguments(__doc__)
    parser.add_argument("--busy", type=int, default=8)
    parser.add_argument("--idle", type=int, default=8)
    parser.add_argument("--churn", type=int, default=2)
    asyncio.run(Clients(parser.parse_args()).run())


if __name__ == "__main__":
    main()
