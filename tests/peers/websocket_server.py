"""A WebSocket echo server (the library `websockets`), which also serves the page that the browser loads.

A text message `close CODE REASON` makes it close the connection so; every other message comes back as it is. It pings
each client often, so that a tunnel that loses control frames is found."""

import argparse
import asyncio
import contextlib
import http
import ssl
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Response

import peer


async def echo(connection):
    # A connection that breaks off is the client's to complain of.
    with contextlib.suppress(ConnectionClosed):
        async for message in connection:
            if isinstance(message, str) and message.startswith("close "):
                _, code, reason = message.split(" ", 2)
                await connection.close(int(code), reason)
                return
            await connection.send(message)


def answer(_, request):
    """What is not a WebSocket: the page and its data."""
    if request.headers.get("Upgrade"):
        return None
    url = urlsplit(request.path)
    if url.path == "/":
        kind, body = "text/html; charset=utf-8", Path(__file__).with_name("page.html").read_bytes()
    else:
        n = int(parse_qs(url.query).get("n", ["1000"])[0])
        kind, body = "application/octet-stream", b"x" * n
    headers = Headers(
        {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store", "Connection": "close"}
    )
    return Response(http.HTTPStatus.OK, "OK", headers, body)


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--certificate", help="speak TLS with this chain and key (PEM)")
    options = parser.parse_args()
    context = None
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate)
    async with serve(
        echo,
        "127.0.0.1",
        0,
        ssl=context,
        process_request=answer,
        max_size=4 << 20,
        ping_interval=0.5,
        ping_timeout=peer.PATIENCE,
        compression=None,
    ) as server:
        peer.listening(server.sockets[0].getsockname()[1])
        await peer.stdin_ends()


if __name__ == "__main__":
    asyncio.run(main())
