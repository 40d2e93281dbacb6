"""Opens pages of the loadtest in Chromium and says what is on them.

For each `NAME.html` in a folder it writes `NAME.json`: what was drawn in windows of several sizes, every table's text,
what the crosshair says, and the console; and `NAME.light.png` and `NAME.dark.png`. With `--pictures` it leaves more of
them: wide and narrow, with the crosshair, and on paper. No page may be wider than its window, and nobody may be asked for
anything but the page."""

import argparse
import asyncio
import base64
import json
from pathlib import Path

from websockets.asyncio.client import connect

import peer
from chromium import Browser, Page, drive

SIZES = {"wide": (1280, 800), "narrow": (400, 800), "phone": (360, 640), "desk": (1600, 1000), "paper": (718, 1000)}

LOOK = """JSON.stringify((() => {
    const all = (selector) => [...document.querySelectorAll(selector)];
    const texts = (selector) => all(selector).map((one) => one.textContent);
    const panel = (one) => ({
        id: one.id,
        bands: one.querySelectorAll('.band').length,
        failures: one.querySelectorAll('svg[role] .failure').length,
        failed: one.querySelectorAll('.count.failed').length,
        excused: one.querySelectorAll('.count.excused').length,
        disturbed: one.querySelectorAll('.count.disturbed').length,
        deeds: one.querySelectorAll('svg[role] .deed').length,
        areas: one.querySelectorAll('svg[role] .area').length,
        lines: one.querySelectorAll('svg[role] path.line').length,
        labels: [...one.querySelectorAll('.label')].map((label) => label.getBBox()).map(({ x, width }) => [x, x + width]),
        broken: [...one.querySelectorAll('svg *')].filter((shape) => [...shape.attributes]
            .some(({ value }) => /NaN|Infinity|undefined|null/.test(value))).length,
        texts: [...one.querySelectorAll('svg[role] > g > text')].map((text) => text.textContent),
    });
    const table = (one) => ({
        id: one.id,
        head: [...one.querySelectorAll('.names th')].map((cell) => cell.textContent),
        rows: [...one.querySelectorAll('tbody tr')].map((row) => [...row.children].map((cell) => cell.textContent)),
    });
    return {
        problem: document.getElementById('problem').hidden ? null : document.getElementById('problem').textContent,
        title: document.title,
        badge: document.getElementById('badge').textContent,
        sentence: document.getElementById('sentence').textContent,
        reasons: texts('#reasons li'),
        figures: texts('#figures div'),
        readout: document.getElementById('readout').textContent,
        panels: all('figure').map(panel),
        tables: all('#tables section').map(table),
        toml: document.querySelector('pre')?.textContent,
        scripts: document.scripts.length,
        images: document.images.length,
        hacked: window.hacked === undefined ? null : String(window.hacked),
        wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        ground: getComputedStyle(document.body).backgroundColor,
    };
})())"""

PLACE = """JSON.stringify((() => {
    const svg = document.querySelector('#panel-rate svg[role]');
    if (!svg) return null;
    svg.scrollIntoView({ block: 'center' });
    const { left, top, width, height } = svg.getBoundingClientRect();
    return { x: left + width / 2, y: top + height / 2 };
})())"""

CROSSHAIR = """JSON.stringify({
    readout: document.getElementById('readout').textContent,
    crosses: document.querySelectorAll('.cross[visibility="visible"]').length,
    values: [...document.querySelectorAll('.legend b')].map((value) => value.textContent),
})"""


async def sized(page, size, scheme):
    """Has the page in a window of this size, drawn anew."""
    width, height = SIZES[size]
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    await page.call("Emulation.setEmulatedMedia", features=features)
    await page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
    # Two frames: one in which the page hears of its new width, one in which it draws.
    await page.call(
        "Runtime.evaluate",
        expression="new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 0))))",
        awaitPromise=True,
    )


async def press(page, key):
    await page.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key)
    await page.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)


async def crosshair(page):
    """What it says when the rate is pointed at, and after each of some keys."""
    place = await page.state(PLACE)
    if not place:
        return None
    await page.call("Input.dispatchMouseEvent", type="mouseMoved", x=place["x"], y=place["y"])
    said = {"pointed": await page.state(CROSSHAIR)}
    await page.call("Runtime.evaluate", expression="document.getElementById('plots').focus({ preventScroll: true })")
    for key in ("Home", "ArrowRight", "PageDown", "End", "ArrowLeft", "Escape"):
        await press(page, key)
        said[key] = await page.state(CROSSHAIR)
    await page.call("Runtime.evaluate", expression="scrollTo(0, 0)")
    return said


WHOLE = """JSON.stringify({ x: 0, y: 0, width: innerWidth, scale: 1,
    height: Math.min(document.documentElement.scrollHeight, 6000) })"""


async def picture(page, path):
    """What all of it looks like."""
    clip = await page.state(WHOLE)
    shot = await page.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    path.write_bytes(base64.b64decode(shot["data"]))


async def pictures(page, name, folder):
    """What it looks like in every way, and with the crosshair on the last upgrade."""
    # What it points at, it points at by keys.
    await page.call("Input.dispatchMouseEvent", type="mouseMoved", x=0, y=0)
    for size in ("wide", "narrow"):
        for scheme in ("light", "dark"):
            await sized(page, size, scheme)
            await picture(page, folder / f"{name}-{size}-{scheme}.png")
            await page.call("Runtime.evaluate", expression="document.getElementById('plots').focus()")
            await press(page, "End")
            await press(page, "PageUp")
            await picture(page, folder / f"{name}-{size}-{scheme}-crosshair.png")
            await press(page, "Escape")
            await page.call("Runtime.evaluate", expression="document.activeElement.blur()")
    await sized(page, "paper", "dark")
    await page.call("Emulation.setEmulatedMedia", media="print")
    await picture(page, folder / f"{name}-print.png")


async def look(page, path, options):
    page.console = []
    await page.call("Page.navigate", url=path.as_uri())
    for _ in range(int(peer.PATIENCE / 0.05)):
        if await page.state("JSON.stringify(document.readyState === 'complete' && location.href.includes('.html'))"):
            break
        await asyncio.sleep(0.05)
    seen = {}
    for size, scheme in [("wide", "dark"), *((size, "light") for size in SIZES)]:
        await sized(page, size, scheme)
        now = await page.state(LOOK)
        assert now["wider"] <= 0, f"{path.name} is {now['wider']} pixels wider than a {size} window"
        seen[f"{size} {scheme}"] = now
    for scheme in ("dark", "light"):
        await sized(page, "wide", scheme)
        await picture(page, path.with_suffix(f".{scheme}.png"))
    seen["crosshair"] = await crosshair(page)
    seen["console"] = page.console
    path.with_suffix(".json").write_text(json.dumps(seen))
    if options.pictures:
        await pictures(page, path.stem, Path(options.pictures))


async def run(options, report, folder):
    browser = Browser(options.program, folder)
    try:
        async with connect(await browser.devtools(), max_size=None, proxy=None) as socket:
            page = Page(socket, browser)
            await page.open("about:blank")
            for path in sorted(Path(options.folder).glob("*.html")):
                await look(page, path, options)
                report.count()
            elsewhere = [url for url in page.asked if not url.startswith(("file://", "about:"))]
            assert not elsewhere, f"others were asked: {elsewhere}"
            assert not page.failed, f"requests failed: {page.failed}"
    except (AssertionError, OSError, TimeoutError, asyncio.TimeoutError) as error:
        report.fail(str(error) or repr(error))
    finally:
        browser.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default="chromium")
    parser.add_argument("--folder", required=True, help="where the pages are")
    parser.add_argument("--pictures", help="a folder for pictures of each page")
    options = parser.parse_args()
    report = peer.Report()
    drive(run, options, report)


if __name__ == "__main__":
    main()
