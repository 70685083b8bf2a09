"""A headless Chromium for tests of HTML pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = os.environ.get("JEPA_RAY_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH, and JEPA_RAY_CHROMIUM names none")
WIDTHS = {"desk": 1280, "phone": 390}
TIMEOUT_MS = 180_000  # machines without a graphics card draw WebGL slowly


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser driven by playwright. The test is skipped if playwright is not installed."""
    pytest.importorskip("playwright", reason="the browser is driven by playwright: pip install 'jepa-ray[test]'")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--enable-unsafe-swiftshader"]  # WebGL in software, in containers too
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()
