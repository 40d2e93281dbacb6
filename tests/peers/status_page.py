"""Opens the status page in Chromium and watches it over an upgrade that its starter makes.

It counts a step each time that the page shows what it must: generation 1; then generation 2 and generation 1 draining;
then generation 1 gone, and the verdict. Then it ends. Nothing may be on the console, nothing may fail, and nobody but
exuvia may be asked."""

import asyncio
import base64
from pathlib import Path

from websockets.asyncio.client import connect

import peer
from chromium import Browser, Page, drive

# Each is true once the page shows it.
STEPS = {
    "generation 1 serves": """document.querySelector('#doing').dataset.generation === '1'
        && lane(1) === 'serving' && document.querySelector('#tile-rate b').textContent !== '–'""",
    "generation 2 serves and generation 1 drains": """document.querySelector('#doing').dataset.generation === '2'
        && lane(2) === 'serving' && lane(1) === 'draining'
        && document.querySelector('[data-generation="1"]').textContent.includes('1 in flight')""",
    "generation 1 is gone and the verdict is there": """lane(1) === 'gone' && lane(2) === 'serving'
        && document.querySelector('#upgrades [data-result]').dataset.result === 'committed'
        && document.querySelector('#upgrades [data-result]').textContent.includes('1 → 2')""",
}

SHOWN = """JSON.stringify((() => {
    const lane = (generation) => document.querySelector(`#lanes [data-generation="${generation}"]`)?.dataset.phase;
    return %s && document.querySelector('#lost').hidden;
})() || false)"""


async def wait_for(page, step):
    for _ in range(int(peer.PATIENCE / 0.05)):
        if await page.state(SHOWN % STEPS[step]):
            return
        await asyncio.sleep(0.05)
    text = await page.state("JSON.stringify(document.body.innerText)")
    raise AssertionError(f"the page does not show that {step}, but\n{text}")


async def picture(page, path, width=1280, height=720, scheme="light"):
    """What it looks like."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    await page.call("Emulation.setEmulatedMedia", features=features)
    await page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
    # Until it is drawn anew.
    await asyncio.sleep(0.4)
    shot = await page.call("Page.captureScreenshot", format="png")
    path.write_bytes(base64.b64decode(shot["data"]))


async def run(options, report, folder):
    browser = Browser(options.program, folder)
    try:
        async with connect(await browser.devtools(), max_size=None, proxy=None) as socket:
            page = Page(socket, browser)
            origin = f"http://{options.host}:{options.port}/"
            await page.open(origin)
            for number, step in enumerate(STEPS, 1):
                await wait_for(page, step)
                if options.pictures:
                    for scheme in ("light", "dark"):
                        await picture(page, Path(options.pictures) / f"{number}-{scheme}.png", scheme=scheme)
                report.count()
            elsewhere = [url for url in page.asked if not url.startswith(origin) and not url.startswith("data:")]
            assert not elsewhere, f"others were asked: {elsewhere}"
            assert not page.failed, f"requests failed: {page.failed}"
            assert not page.console, f"the console says {page.console}"
            report.count("asked", len(page.asked))
    except (AssertionError, OSError, TimeoutError, asyncio.TimeoutError) as error:
        report.fail(str(error) or repr(error))
    finally:
        browser.end()


def main():
    parser = peer.arguments(__doc__)
    parser.add_argument("--program", default="chromium")
    parser.add_argument("--pictures", help="a folder for pictures of each step")
    options = parser.parse_args()
    report = peer.Report()
    drive(run, options, report)


if __name__ == "__main__":
    main()
