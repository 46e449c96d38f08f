"""The session every test runs in: 64-bit on, rank promotion an error (warnings: pyproject).

Nearly all of the suite's time is compilation, so tests compile with XLA's optimizer turned down;
``MEMOA_TEST_OPTIMISED=1`` turns it up. What users get is tested at full optimization all the
same: a test that starts a process (the command line, the canary, the reference numbers in
tests/test_optimised.py) starts it with XLA as it is, and one that has it compile quickly
(`helpers.environment`) has a slow variant that does not.

And the folders that tests of the command line work in.
"""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import GRID, QUICK_FLAGS, TINY


def _accepted(flags):
    """Tell whether this jaxlib knows the flags: it aborts the process on one it does not."""
    probe = [sys.executable, "-c", "import jax; jax.devices()"]
    environment = {**os.environ, "XLA_FLAGS": flags}
    return subprocess.run(probe, env=environment, capture_output=True, check=False).returncode == 0


os.environ.setdefault("JAX_PLATFORMS", "cpu")
_flags_of_the_user = os.environ.get("XLA_FLAGS")
if _flags_of_the_user is None and not os.environ.get("MEMOA_TEST_OPTIMISED"):
    # Workers of one session inherit the answer.
    _quick = os.environ.setdefault("MEMOA_TEST_QUICK", "yes" if _accepted(QUICK_FLAGS) else "no")
    if _quick == "yes":
        os.environ["XLA_FLAGS"] = QUICK_FLAGS

import jax  # noqa: E402
import jax.monitoring  # noqa: E402

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.devices()  # reads the flags; from here on child processes start without them
if _flags_of_the_user is None:
    os.environ.pop("XLA_FLAGS", None)


MAPS = Path("/proc/self/maps")  # what this process has mapped, a line each; Linux only
LIMIT = Path("/proc/sys/vm/max_map_count")  # by default 65,530: Linux refuses the next
MOST_MAPS = int(LIMIT.read_text()) // 3 if LIMIT.exists() else 20_000  # a program holds a few
EVERY = 16  # tests; reading that many maps takes 20 ms

# Tracing makes millions of small objects that stay: the collector would look at all of them often.
gc.set_threshold(50_000, 20, 20)


class ForgetPrograms:
    """Drops compiled programs long before the system's limit on memory maps is met.

    A worker that has run a thousand tests holds tens of thousands of maps; past the limit the
    next library fails to load and the next compilation kills the process.
    """

    def __init__(self):
        self.tests = 0

    def pytest_runtest_teardown(self, item, nextitem):
        """Look after some tests; forgetting costs the next tests their compilations."""
        self.tests += 1
        if self.tests % EVERY:
            return
        if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
            jax.clear_caches()
            gc.collect()


def pytest_configure(config):
    """For doctests too, which no conftest of a folder reaches."""
    config.pluginmanager.register(ForgetPrograms())


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tiny(here):
    """Work in a folder that holds a small run; return its path."""
    (here / "tiny.toml").write_text(TINY)
    return here / "tiny.toml"


@pytest.fixture
def grid(here):
    """Work in a folder that holds a small sweep; return its path."""
    (here / "grid.toml").write_text(GRID)
    return here / "grid.toml"


@pytest.fixture
def compiled():
    """Collect the names of the programs that are compiled."""
    names = []

    def listen(event, duration_secs, fun_name="", **_):
        del duration_secs
        if event.endswith("backend_compile_duration"):
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)
