"""Drives Chromium, headless, over its DevTools protocol: it loads `page.html`, which never stops asking over HTTP/2 and
over a WebSocket, and is looked at until standard input ends. No fetch may fail, each must have come over the protocol
that is expected, and the WebSocket that the page opened must have lived all the time.

One failure is Chromium's own: a request that has found its connection but not yet its stream when a GOAWAY comes ends
with net::ERR_FAILED, without a byte sent and without another attempt (`SpdySession::TryCreateStream`). No server can
help it. The page goes on after it, and it is counted as `raced`; every other failure is one."""

import asyncio
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from websockets.asyncio.client import connect

import peer

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--metrics-recording-only",
    "--no-default-browser-check",
    "--no-first-run",
    # It looks for its maker, who is not to be asked.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--ignore-certificate-errors",
    "--remote-debugging-port=0",
]


RACED = "net::ERR_FAILED"


class Browser:
    """A Chromium of its own, in a folder of its own."""

    def __init__(self, program, folder):
        # A group of its own, so that all of its processes can be ended.
        self.process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=open(folder / "stderr", "w"),
            start_new_session=True,
        )
        self.folder, self.numbers = folder, itertools.count(1)

    async def devtools(self):
        """The address of its DevTools, once it is there."""
        port = self.folder / "DevToolsActivePort"
        for _ in range(int(peer.PATIENCE / 0.05)):
            lines = port.read_text().split("\n") if port.exists() else []
            if len(lines) > 1:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            assert self.process.poll() is None, f"Chromium ended: {(self.folder / 'stderr').read_text()[-2000:]}"
            await asyncio.sleep(0.05)
        raise AssertionError("Chromium does not begin")

    def end(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


class Page:
    """A tab, and what it says of itself."""

    def __init__(self, socket, browser):
        self.socket, self.browser, self.session = socket, browser, None
        self.asked, self.failed, self.console, self.waiting = [], [], [], {}
        self.reading = asyncio.create_task(self.read())

    async def read(self):
        async for text in self.socket:
            message = json.loads(text)
            if "id" in message:
                self.waiting.pop(message["id"]).set_result(message)
            elif message["method"] == "Network.requestWillBeSent":
                self.asked.append(message["params"]["request"]["url"])
            elif message["method"] == "Network.loadingFailed":
                self.failed.append(message["params"].get("errorText"))
            elif message["method"] in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.console.append(json.dumps(message["params"])[:500])

    async def call(self, method, **parameters):
        number = next(self.browser.numbers)
        answer = self.waiting[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        await self.socket.send(json.dumps(message))
        answer = await asyncio.wait_for(answer, peer.PATIENCE)
        assert "result" in answer, answer
        return answer["result"]

    async def open(self, url):
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Network", "Runtime", "Log", "Page"):
            await self.call(f"{domain}.enable")
        navigated = await self.call("Page.navigate", url=url)
        assert "errorText" not in navigated, navigated

    async def state(self, script="JSON.stringify(window.state || null)"):
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return json.loads(found["result"].get("value") or "null")


async def run(options, report, folder):
    browser = Browser(options.program, folder)
    try:
        async with connect(await browser.devtools(), max_size=None, proxy=None) as socket:
            page = Page(socket, browser)
            await page.open(f"https://{options.host}:{options.port}/")
            seen = 0
            while not report.over.is_set():
                await asyncio.sleep(0.05)
                state = await page.state()
                if state:
                    # Both must go on for the whole to go on.
                    now = min(state["fetched"], state["echoed"])
                    report.count(by=now - seen)
                    seen = now
                    for failure in state["failures"] + [one for one in page.failed if one != RACED]:
                        report.fail(failure)
            state = await page.state("window.state.over = true, JSON.stringify(window.state)")
            raced = page.failed.count(RACED)
            report.count("raced", raced)
            # What was never sent went over nothing.
            assert state["unanswered"] <= raced, f"{state['unanswered']} fetches failed, {raced} by the race"
            protocols = set(state["protocols"]) - ({"none"} if raced else set())
            assert protocols == {options.protocol}, f"over {state['protocols']}"
            assert state["opened"] == 1, f"{state['opened']} WebSockets were opened"
            for what in ("fetched", "echoed"):
                report.count(what, state[what])
            for line in page.console:
                if RACED not in line:
                    report.fail(f"the page says {line}")
    except (AssertionError, OSError, TimeoutError, asyncio.TimeoutError) as error:
        report.fail(repr(error))
    finally:
        browser.end()


def drive(run, options, report):
    """Has a browser driven by `run`, with a folder for what it keeps, and ends with the report."""
    # Not as a context: its end must come before the report's, which ends the process.
    folder = tempfile.mkdtemp(prefix="exuvia-chromium-")
    try:
        asyncio.run(run(options, report, Path(folder)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.end()


def main():
    parser = peer.arguments(__doc__)
    parser.add_argument("--program", default="chromium")
    parser.add_argument("--protocol", default="h2")
    options = parser.parse_args()
    report = peer.Report()
    report.stop_with_stdin()
    drive(run, options, report)


if __name__ == "__main__":
    main()
