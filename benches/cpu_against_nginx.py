#!/usr/bin/env python3
"""CPU per request of exuvia against nginx: the same job, the same machine, in turn.

    cargo build --release && python3 benches/cpu_against_nginx.py

EXUVIA=PATH measures another build. Needs nginx and wrk (from the system's packages). Each proxy has one worker, pinned to CPU 0; wrk and the upstream
(an nginx that answers 200 with a few bytes) are on the last CPU. What counts is the CPU time of the proxy alone, from
/proc/PID/stat, divided by the requests that wrk counted. One round is exuvia, nginx, and again: only the ratio within
a round means anything on a machine that others use too.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
LAST = max(os.sched_getaffinity(0))
FIRST = min(os.sched_getaffinity(0))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"nobody listens on port {port}")


def cpu_seconds(pid):
    """The CPU time of a process and of every child that lives, user and system."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text()
        except OSError:
            continue
        fields = text[text.rindex(")") + 2 :].split()
        if int(entry.name) == pid or int(fields[1]) == pid:
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def pinned(command, cpu, **options):
    return subprocess.Popen(["taskset", "-c", str(cpu), *command], **options)


def nginx_conf(folder, port, server):
    folder.mkdir()
    conf = folder / "nginx.conf"
    conf.write_text(
        f"""daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 2048; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;
  fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  {server}
}}
"""
    )
    return ["nginx", "-p", str(folder), "-c", str(conf)]


def upstream(folder, port):
    server = f"""server {{ listen 127.0.0.1:{port}; location / {{ return 200 "ok: a small answer of 32 bytes\\n"; }} }}"""
    return pinned(nginx_conf(folder, port, server), LAST)


def nginx(folder, port, behind):
    server = f"""upstream u {{ server 127.0.0.1:{behind}; keepalive 128; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://u; proxy_http_version 1.1;
    proxy_set_header Connection ""; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host; }} }}"""
    return pinned(nginx_conf(folder, port, server), FIRST)


def exuvia(folder, port, behind):
    folder.mkdir()
    conf = folder / "exuvia.toml"
    conf.write_text(
        f"""workers = 1
[listeners.web]
address = "127.0.0.1:{port}"
[upstream]
servers = ["127.0.0.1:{behind}"]
[control]
socket = "{folder}/control.sock"
[log]
level = "warn"
"""
    )
    program = Path(os.environ.get("EXUVIA", ROOT / "target/release/exuvia"))
    return pinned([str(program), "run", "--supervise=never", "--config", str(conf)], FIRST, stdout=subprocess.DEVNULL)


def load(port, seconds, connections):
    command = ["taskset", "-c", str(LAST), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"http://127.0.0.1:{port}/"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)", out)
    if bad:
        sys.exit(f"wrk saw failures: {bad.group(0)}")
    return int(re.search(r"(\d+) requests in", out).group(1))


def measure(pid, port, seconds, connections):
    before = cpu_seconds(pid)
    requests = load(port, seconds, connections)
    return 1e6 * (cpu_seconds(pid) - before) / requests, requests / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    for program in ("nginx", "wrk", "taskset"):
        if not shutil.which(program):
            sys.exit(f"{program} is not installed: nothing is measured")

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        behind, ports = free_port(), {"exuvia": free_port(), "nginx": free_port()}
        running = [upstream(folder / "upstream", behind)]
        try:
            wait_for(behind)
            proxies = {
                "exuvia": exuvia(folder / "exuvia", ports["exuvia"], behind),
                "nginx": nginx(folder / "nginx", ports["nginx"], behind),
            }
            running += proxies.values()
            for name, port in ports.items():
                wait_for(port)
                load(port, 1, options.connections)
            ratios = []
            for number in range(options.rounds):
                figures = {}
                for name, proxy in proxies.items():
                    figures[name] = measure(proxy.pid, ports[name], options.seconds, options.connections)
                ratios.append(figures["exuvia"][0] / figures["nginx"][0])
                line = ", ".join(f"{name} {cost:.1f} µs ({rate:.0f}/s)" for name, (cost, rate) in figures.items())
                print(f"round {number + 1}: {line}, ratio {ratios[-1]:.2f}", flush=True)
            print(f"CPU per request, exuvia / nginx: median {statistics.median(ratios):.2f} "
                  f"({min(ratios):.2f} to {max(ratios):.2f})")
        finally:
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                process.wait(20)


if __name__ == "__main__":
    main()
