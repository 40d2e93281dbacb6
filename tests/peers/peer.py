"""What these programs share: how they are told to stop, and how they say what happened.

A server writes `listening on PORT` and ends when its standard input does. A client writes `done N` as it gets on,
finishes what it has begun when its standard input ends, writes each failure to standard error and a last line
`summary {...}`, and exits with 1 if anything failed or nothing was done. No client ever tries again.
"""

import argparse
import asyncio
import hashlib
import json
import os
import ssl
import sys
import threading
import time

# How long anything may take before a program gives up: far more than it needs on a loaded machine.
PATIENCE = 30

# Beyond these, the rest is like them.
MOST_FAILURES = 20


def arguments(description):
    """The arguments that every client has."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca", help="speak TLS, and trust this authority (PEM)")
    parser.add_argument("--name", default="localhost", help="the server's name under TLS")
    return parser


def tls(options, *protocols):
    """How to speak TLS with the server, if it is to be."""
    if not options.ca:
        return None
    context = ssl.create_default_context(cafile=options.ca)
    context.set_alpn_protocols(list(protocols))
    return context


def listening(port):
    print(f"listening on {port}", flush=True)


def noise(length, seed):
    """Bytes that are different for each seed, and cheap."""
    block = hashlib.shake_256(str(seed).encode()).digest(min(length, 65_521))
    return (block * (length // max(len(block), 1) + 1))[:length]


class Report:
    """What a client has done."""

    def __init__(self):
        self.counts = {"done": 0}
        self.failures = []
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._said = 0.0

    def count(self, what="done", by=1):
        with self._lock:
            self.counts[what] = self.counts.get(what, 0) + by
            now = time.monotonic()
            if what == "done" and now - self._said > 0.02:
                self._said = now
                print("done", self.counts["done"], flush=True)

    def fail(self, what):
        with self._lock:
            self.failures.append(what)
            if len(self.failures) <= MOST_FAILURES:
                print("FAILED:", what, file=sys.stderr, flush=True)
        self.over.set()

    def stop_with_stdin(self, tell=None):
        """Begins to wait for the end of standard input, on a thread of its own."""

        def wait():
            while os.read(0, 4096):
                pass
            self.over.set()
            if tell:
                tell()

        threading.Thread(target=wait, daemon=True).start()

    def end(self):
        """Says how it was, and exits."""
        print("done", self.counts["done"], flush=True)
        print("summary", json.dumps(self.counts), flush=True)
        if self.failures:
            print(f"{len(self.failures)} failures beside {self.counts}", file=sys.stderr, flush=True)
        good = not self.failures and self.counts["done"] > 0
        # Not sys.exit: what a library still has on other threads must not hold the end.
        sys.stderr.flush()
        os._exit(0 if good else 1)


async def until(over):
    """Waits for a threading.Event that is set from another thread."""
    while not over.is_set():
        await asyncio.sleep(0.02)


async def stdin_ends():
    """Waits for the end of standard input: a server's end."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()

    def wait():
        while os.read(0, 4096):
            pass
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait, daemon=True).start()
    await ended.wait()
