"""The report in a real browser, where one is installed: nothing on the console, nothing fetched.

The page's own policy forbids every request, and a browser tells on the console of what it
refused: a silent console is a page that asked for nothing.
"""

import shutil
import subprocess

import pytest
import report_folders as made

from memoa_jax.report_write import write_report

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed"),
]


def console(path, folder):
    """Open a page in headless Chromium and return what it says on its console."""
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    words += ["--enable-logging=stderr", "--virtual-time-budget=3000", "--window-size=1280,900"]
    words += [f"--user-data-dir={folder / 'profile'}", f"--screenshot={folder / 'shot.png'}"]
    done = subprocess.run(
        [BROWSER, *words, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_a_browser_has_nothing_to_say_of_the_page(tmp_path):
    page, _ = write_report(made.plain_run(tmp_path / "run"))
    assert console(page, tmp_path) == []
    assert (tmp_path / "shot.png").stat().st_size > 20_000


def test_a_browser_would_tell_of_a_request(tmp_path):
    page, _ = write_report(made.plain_run(tmp_path / "run"))
    asks = page.read_text().replace("<main>", '<main><img alt="" src="http://127.0.0.1:9/a.png">')
    (tmp_path / "asks.html").write_text(asks)
    said = console(tmp_path / "asks.html", tmp_path)
    assert said
    assert "Content Security Policy" in said[0]
