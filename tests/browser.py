"""Debian's Chromium, driven by Playwright, for the tests: real pages as a person sees them."""

import contextlib
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

CHROMIUM = shutil.which("chromium")

FLAGS = (
    "--no-sandbox",  # root in a container has no other way
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def open_browser(before: Sequence[str] = ()) -> Iterator[Browser]:
    """Start a browser with an empty profile; the test is skipped where there is no Chromium.

    Args:
        before: what its command begins with, to be in another network, say.
    """
    if CHROMIUM is None:
        pytest.skip("no chromium: `apt-get install chromium` brings it")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        program = Path(folder) / "chromium"
        program.write_text(f'#!/bin/sh\nexec {shlex.join([*before, CHROMIUM])} "$@"\n')
        program.chmod(0o755)
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def open_page(browser: Browser, *forgiven: str) -> Iterator[Page]:
    """Open a page as a stranger; at its end its console must hold no error.

    Args:
        browser: from open_browser.
        forgiven: texts, or parts of addresses, of errors that are not ours.
    """
    with browser.new_context(viewport={"width": 1440, "height": 900}) as context:
        page, errors = context.new_page(), []
        page.on("console", lambda told: told.type == "error" and errors.append(_whole(told)))
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
    assert [e for e in errors if not any(known in e for known in forgiven)] == []


def _whole(told: ConsoleMessage) -> str:
    """Return an error with the address that it is about, which its text leaves out."""
    return f"{told.text} ({told.location['url']})"
