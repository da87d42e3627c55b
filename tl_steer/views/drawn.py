"""A page as a picture or a table, saved by the page itself in an installed Chromium."""

import base64
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tl_steer.errors import SettingError
from tl_steer.files.optional import imported
from tl_steer.files.text import said

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Some charts are drawn after the page: it is saved when nothing has changed in it for a while.
_SAVED = """async (kind) => {
  await document.fonts.ready;
  while (document.querySelector("[aria-busy=true]")) await new Promise(requestAnimationFrame);
  await new Promise((done) => {
    let quiet = setTimeout(done, 300);
    const wait = () => { clearTimeout(quiet); quiet = setTimeout(done, 300); };
    new MutationObserver(wait).observe(document.body, { childList: true, subtree: true });
    setTimeout(done, 20000);
  });
  return TlSteer.exported[kind]();
}"""


def drawn(page: str, kind: str) -> bytes:
    """The file that a page's own export gives.

    Args:
        page: its HTML.
        kind: `.svg`, `.png` or `.csv`.

    Raises:
        SettingError: no playwright, no Chromium, or nothing on the page is a table.
    """
    imported("playwright", install='"tl_steer[browser]"')
    # In a thread: playwright refuses to wait in one that runs an event loop, as a notebook's does.
    with ThreadPoolExecutor(1) as pool:
        text = pool.submit(_opened, page, kind[1:]).result()
    if not text:
        raise SettingError("This view has no table; save it as .html, .svg or .png.")
    return base64.b64decode(text) if kind == ".png" else text.encode("utf-8")


def _opened(page: str, kind: str) -> str:
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "view.html"
        try:
            path.write_text(page, encoding="utf-8")
            return _said_by(_browser(driver), path.as_uri(), kind)
        except (Error, OSError) as error:
            raise SettingError(
                f"Chromium did not draw this view: {said(error, most=300)}. Save it as .html, "
                "which needs no browser."
            ) from error


def _browser(driver: Any) -> Any:
    """One that is installed, or playwright's own."""
    from playwright.sync_api import Error

    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    # Chromium has no sandbox for root. The page's policy stands in either case.
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    try:
        return driver.chromium.launch(executable_path=found, chromium_sandbox=not root)
    except Error as error:
        raise SettingError(
            f"No Chromium could be started ({said(error, most=200)}): install one, or run "
            "`playwright install chromium`."
        ) from error


def _said_by(browser: Any, address: str, kind: str) -> str:
    context = browser.new_context(
        offline=True, viewport={"width": 1100, "height": 800}, color_scheme="light"
    )
    tab = context.new_page()
    tab.goto(address)
    return str(tab.evaluate(_SAVED, kind))
