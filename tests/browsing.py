"""A real browser for tests: pages open from file://, with the network cut."""

import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sync_playwright = None

in_a_browser = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium (apt-get install chromium)"),
    pytest.mark.skipif(sync_playwright is None, reason="no playwright (pip install playwright)"),
]

# How many colours each canvas holds; one would be a blank.
COLOURS = """() => [...document.querySelectorAll("canvas")].map((canvas) => {
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const seen = new Set();
  for (let i = 0; i < data.length; i += 4) seen.add(data.slice(i, i + 4).join());
  return seen.size;
})"""
# Elements that only injected markup could have made, outside CircuitsVis's own.
FOREIGN = """() => [...document.querySelectorAll("img, iframe, object, embed, form, s, script")]
  .filter((node) => node.tagName !== "SCRIPT" || !node.closest("body > script"))
  .map((node) => node.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        # Software rendering, so that machines without a graphics card see the same.
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Open a page of HTML; at the end nothing may have gone wrong in any that was opened."""
    wrong, contexts = [], []

    def open_page(html, *, address=""):
        context = browser.new_context(viewport={"width": 1100, "height": 800}, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: m.type == "error" and wrong.append(m.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        local = ("file:", "blob:", "data:", "about:")
        page.on("request", lambda r: r.url.startswith(local) or wrong.append(r.url))
        path = tmp_path / f"page-{len(contexts)}.html"
        path.write_bytes(html.encode())
        page.goto(path.as_uri() + address)
        settle(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong, wrong


def location(page):
    """What the address bar says. `page.url` hears of changes inside a page a moment later."""
    return page.evaluate("() => window.location.href")


def settle(page):
    """Wait until charts are drawn: two frames behind the last change of the layout."""
    page.wait_for_function("() => !document.querySelector('[aria-busy=true]')")
    page.evaluate("() => new Promise((done) => setTimeout(() => requestAnimationFrame(done), 150))")


def drawn(page):
    """No canvas is blank, and nothing sticks out sideways."""
    assert all(count > 1 for count in page.evaluate(COLOURS)), page.evaluate(COLOURS)
    across = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    assert across <= 1
