#!/usr/bin/env python3
"""exuvia against nginx and HAProxy over TLS, HTTP/1.1 and HTTP/2: CPU per request and per handshake, memory at rest.

    cargo build --release && python3 benches/protocols.py [--only NAME ...] [--rounds N] [--seconds N]

EXUVIA=PATH measures another build. Needs h2load (nghttp2-client), openssl, nginx and haproxy; a proxy that is not
installed is left out. Each proxy has one worker, pinned to the first CPU; the load and the upstream (an nginx) are on
the last. What counts is the CPU time of the proxy alone, from /proc/PID/stat, divided by what the load counted. A round
is each proxy in turn: only the ratio within a round means anything on a machine that others use too. For handshakes a
second of CPU is what counts: how many fit into it. For memory it is the growth of the resident set, divided by the
connections that are held.
"""

import argparse
import contextlib
import os
import re
import resource
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cpu_against_nginx import FIRST, LAST, ROOT, cpu_seconds, free_port, nginx_conf, pinned, wait_for

CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
LARGE = 1 << 20
DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def certificate(folder):
    """One for all, ECDSA on P-256: the chain, the key, and both in one file for HAProxy."""
    chain, key, both = folder / "chain.pem", folder / "key.pem", folder / "both.pem"
    command = ["openssl", "req", "-x509", *CURVE, "-nodes", "-keyout", key, "-out", chain, "-days", "30"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    both.write_text(chain.read_text() + key.read_text())
    return chain, key, both


def upstream(folder, port):
    www = folder / "www"
    www.mkdir()
    (www / "large").write_bytes(b"x" * LARGE)
    server = f"""sendfile on; tcp_nopush on;
  server {{ listen 127.0.0.1:{port}; root {www};
    location = / {{ return 200 "ok: a small answer of 32 bytes\\n"; }} }}"""
    return pinned(nginx_conf(folder / "upstream", port, server), LAST)


class Proxy:
    """One under measurement: plain on one port, TLS on another."""

    def __init__(self, name, folder, behind, certificates):
        self.name, self.folder, self.behind, self.certificates = name, folder / name, behind, certificates
        self.plain, self.tls = free_port(), free_port()
        self.process = getattr(self, name)()
        wait_for(self.plain)
        wait_for(self.tls)

    def exuvia(self):
        self.folder.mkdir()
        conf, (chain, key, _) = self.folder / "exuvia.toml", self.certificates
        conf.write_text(
            f"""workers = 1
[listeners.plain]
address = "127.0.0.1:{self.plain}"
[listeners.tls]
address = "127.0.0.1:{self.tls}"
certificates = ["site"]
[certificates.site]
chain = "{chain}"
key = "{key}"
[upstream]
servers = ["127.0.0.1:{self.behind}"]
[timeouts]
idle = "10m"
[limits]
connections_per_worker = 20000
[control]
socket = "{self.folder}/control.sock"
[log]
level = "warn"
"""
        )
        program = os.environ.get("EXUVIA", ROOT / "target/release/exuvia")
        command = [str(program), "run", "--supervise=never", "--config", str(conf)]
        return pinned(command, FIRST, stdout=subprocess.DEVNULL)

    def nginx(self):
        chain, key, _ = self.certificates
        server = f"""upstream u {{ server 127.0.0.1:{self.behind}; keepalive 128; keepalive_requests 1000000000; }}
  keepalive_timeout 600s; client_header_timeout 600s;
  ssl_certificate {chain}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets on;
  server {{ listen 127.0.0.1:{self.plain}; listen 127.0.0.1:{self.tls} ssl http2; http2_max_concurrent_streams 128;
    location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host; }} }}"""
        command = nginx_conf(self.folder, self.tls, server)
        conf = self.folder / "nginx.conf"
        conf.write_text(conf.read_text().replace("worker_connections 2048", "worker_connections 20000"))
        return pinned(command, FIRST)

    def haproxy(self):
        self.folder.mkdir()
        conf, both = self.folder / "haproxy.cfg", self.certificates[2]
        conf.write_text(
            f"""global
  nbthread 1
  maxconn {(DESCRIPTORS - 500) // 2}
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  option forwardfor
  timeout client 10m
  timeout server 1m
  timeout connect 3s
  timeout http-keep-alive 10m
  timeout http-request 10m
  http-reuse always
frontend f
  bind 127.0.0.1:{self.plain}
  bind 127.0.0.1:{self.tls} ssl crt {both} alpn h2,http/1.1
  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
  default_backend b
backend b
  server s 127.0.0.1:{self.behind}
"""
        )
        return pinned(["haproxy", "-db", "-f", str(conf)], FIRST, stderr=subprocess.DEVNULL)

    def cpu(self):
        return cpu_seconds(self.process.pid)

    def resident(self):
        """KiB, of the process and of every child that lives."""
        total = 0
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    text = (entry / "status").read_text()
                    parent = int(re.search(r"^PPid:\s+(\d+)", text, re.M).group(1))
                    found = re.search(r"^VmRSS:\s+(\d+)", text, re.M)
                    if found and self.process.pid in (int(entry.name), parent):
                        total += int(found.group(1))
        return total

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def h2load(url, seconds, *arguments):
    """How many requests succeeded; all must."""
    command = ["taskset", "-c", str(LAST), "h2load", "-t1", f"-D{seconds}", *arguments, url]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    done = re.search(r"requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", out)
    if not done or done.group(2, 3, 4) != ("0", "0", "0") or done.group(1) == "0":
        sys.exit(f"h2load {' '.join(arguments)} {url}:\n{out}")
    return int(done.group(1))


def requests(*arguments, path="/", tls=True):
    """A measure of CPU µs per request."""

    def measure(proxy, seconds):
        url = f"https://127.0.0.1:{proxy.tls}{path}" if tls else f"http://127.0.0.1:{proxy.plain}{path}"
        before = proxy.cpu()
        done = h2load(url, seconds, *arguments)
        return 1e6 * (proxy.cpu() - before) / done

    return measure


def handshakes(resumed, version):
    """A measure of CPU µs per handshake with one request, by openssl s_time, which asks in HTTP/1.0."""

    def measure(proxy, seconds):
        before = proxy.cpu()
        command = ["taskset", "-c", str(LAST), "openssl", "s_time", "-connect", f"127.0.0.1:{proxy.tls}"]
        command += ["-www", "/", "-time", str(seconds), "-reuse" if resumed else "-new", version]
        out = subprocess.run(command, capture_output=True, text=True).stdout
        done = re.search(r"(\d+) connections in \d+ real seconds", out)
        if not done or done.group(1) == "0":
            sys.exit(f"{' '.join(command)}:\n{out}")
        return 1e6 * (proxy.cpu() - before) / int(done.group(1))

    return measure


def full_handshakes(proxy, seconds):
    """CPU µs per full TLS 1.3 handshake without a request, by Python's ssl (X25519, P-256)."""
    return shake(proxy, seconds, resumed=False)


def resumed_handshakes(proxy, seconds):
    """CPU µs per resumed TLS 1.3 handshake without a request."""
    return shake(proxy, seconds, resumed=True)


def shake(proxy, seconds, resumed):
    os.sched_setaffinity(0, {LAST})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    session, done, reused = None, 0, 0
    if resumed:
        session = connect(proxy, context, None, ticket=True).session
    before, end = proxy.cpu(), time.monotonic() + seconds
    while time.monotonic() < end:
        stream = connect(proxy, context, session)
        reused += stream.session_reused
        stream.close()
        done += 1
    if resumed and reused != done:
        sys.exit(f"{proxy.name}: only {reused} of {done} sessions were resumed")
    return 1e6 * (proxy.cpu() - before) / done


def connect(proxy, context, session, ticket=False):
    """A TLS connection; with `ticket`, after one request, behind whose answer the ticket has come."""
    plain = socket.create_connection(("127.0.0.1", proxy.tls), 10)
    stream = context.wrap_socket(plain, server_hostname="localhost", session=session)
    if ticket:
        stream.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        stream.recv(4096)
    return stream


MEASURES = {
    "http1": ("CPU µs per request, HTTP/1.1 in plain", requests("--h1", "-c64", tls=False)),
    "http1-tls": ("CPU µs per request, HTTP/1.1 over TLS", requests("--h1", "-c64")),
    "http2-tls": ("CPU µs per request, HTTP/2 over TLS", requests("-c16", "-m8")),
    "http1-tls-1mib": ("CPU µs per body of 1 MiB, HTTP/1.1 over TLS", requests("--h1", "-c8", path="/large")),
    "http2-tls-1mib": (
        "CPU µs per body of 1 MiB, HTTP/2 over TLS",
        requests("-c8", "-m2", "-w20", "-W22", path="/large"),
    ),
    "handshakes": ("CPU µs per full handshake, TLS 1.3", full_handshakes),
    "resumed": ("CPU µs per resumed handshake, TLS 1.3", resumed_handshakes),
    "handshakes-1.2": ("CPU µs per full handshake and request, TLS 1.2", handshakes(False, "-tls1_2")),
    "resumed-1.2": ("CPU µs per resumed handshake and request, TLS 1.2", handshakes(True, "-tls1_2")),
}


def paired(proxies, title, measure, rounds, seconds):
    """Rounds of one measure, and the medians of the ratios within each."""
    for proxy in proxies:
        measure(proxy, 1)
    ratios = {proxy.name: [] for proxy in proxies[1:]}
    costs = {proxy.name: [] for proxy in proxies}
    for _ in range(rounds):
        for proxy in proxies:
            costs[proxy.name].append(measure(proxy, seconds))
        for name in ratios:
            ratios[name].append(costs[proxies[0].name][-1] / costs[name][-1])
    medians = {name: statistics.median(all_of) for name, all_of in costs.items()}
    line = ", ".join(f"{name} {cost:.1f} ({1e6 / cost:.0f} per CPU second)" for name, cost in medians.items())
    print(f"{title}: {line}", flush=True)
    for name, all_of in ratios.items():
        spread = f"{min(all_of):.2f} to {max(all_of):.2f}"
        print(f"    {proxies[0].name} / {name}: median {statistics.median(all_of):.2f} ({spread})", flush=True)


def hold(proxy, kind, count):
    """KiB that each of `count` connections of a kind takes while it rests after one request."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"] if kind == "http2" else ["http/1.1"])
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    # GET / of localhost, from HPACK's static table, on stream 1; and the acknowledgement of the SETTINGS.
    head = b"\x82\x87\x84\x41\x09localhost"
    ask2 = preface + bytes([0, 0, len(head), 1, 5, 0, 0, 0, 1]) + head + bytes([0, 0, 0, 4, 1, 0, 0, 0, 0])
    ask1 = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def one():
        stream = socket.create_connection(("127.0.0.1", proxy.plain if kind == "http1" else proxy.tls), 10)
        if kind != "http1":
            stream = context.wrap_socket(stream, server_hostname="localhost")
        stream.sendall(ask2 if kind == "http2" else ask1)
        said = b""
        while b"32 bytes\n" not in said:
            block = stream.recv(65536)
            if not block:
                sys.exit(f"{proxy.name} closed a connection of {kind} after {said!r}")
            said += block
        return stream

    # What is made once, such as the connections to the upstream, is made before.
    for stream in [one() for _ in range(64)]:
        stream.close()
    time.sleep(1)
    before = proxy.resident()
    held = [one() for _ in range(count)]
    # What a proxy gives back once a connection has rested a moment is not held.
    time.sleep(5)
    grown = proxy.resident() - before
    for stream in held:
        stream.close()
    time.sleep(1)
    return grown / count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--held", type=int, default=5000)
    parser.add_argument("--proxies", nargs="+", default=["exuvia", "nginx", "haproxy"])
    parser.add_argument("--only", nargs="+", choices=[*MEASURES, "memory"], default=[*MEASURES, "memory"])
    options = parser.parse_args()
    for program in ("h2load", "openssl", "nginx", "taskset"):
        if not shutil.which(program):
            sys.exit(f"{program} is not installed: nothing is measured")
    names = [name for name in options.proxies if name == "exuvia" or shutil.which(name)]
    for name in set(options.proxies) - set(names):
        print(f"{name} is not installed: it is left out", file=sys.stderr)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        folder, behind = Path(folder), free_port()
        folder.chmod(0o755)
        server = upstream(folder, behind)
        running.callback(server.wait, 20)
        running.callback(server.terminate)
        wait_for(behind)
        certificates = certificate(folder)

        def start(into, name):
            proxy = Proxy(name, into, behind, certificates)
            running.callback(proxy.end)
            return proxy

        proxies = [start(folder, name) for name in names]
        for name in options.only:
            if name in MEASURES:
                title, measure = MEASURES[name]
                paired(proxies, title, measure, options.rounds, options.seconds)
        if "memory" in options.only:
            for kind, title in {"http1": "HTTP/1.1", "http1-tls": "HTTP/1.1 over TLS", "http2": "HTTP/2"}.items():
                figures = []
                for name in names:
                    # A new process: memory that another kind has left would be used again.
                    into = folder / f"memory-{kind}"
                    into.mkdir(exist_ok=True)
                    proxy = start(into, name)
                    figures.append(f"{name} {hold(proxy, kind, options.held):.1f}")
                    proxy.end()
                print(f"KiB per idle connection, {title} ({options.held} held): {', '.join(figures)}", flush=True)


if __name__ == "__main__":
    main()
