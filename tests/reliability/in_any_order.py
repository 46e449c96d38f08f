"""The default suite again and again, each time in another order: what does it depend on?

    python tests/reliability/in_any_order.py --passes 20 --workers 2

Each worker has a share of the files, and makes all its passes in one process: what a test leaves
behind meets every other test of the share, and the test itself. Ends with 1 if anything failed.

Programs stay compiled from pass to pass: later passes take a third of the first one's time, and 8
to 10 GB of memory per worker; they are forgotten sooner where `vm.max_map_count` is small. A cache
on disk shortens the first pass, and what child processes compile: JAX_COMPILATION_CACHE_DIR, with
JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 and JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1.
"""

import argparse
import contextlib
import gc
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COLLECT_AFTER = 250  # tests; what nobody uses any more is collected


class AnyOrder:
    """Shuffles files, and the tests of each; counts what became of them."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.seen, self.counts, self.failed = 0, {}, []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        """Keep a file together, as fixtures of a module want it."""
        files = {}
        for item in items:
            files.setdefault(item.path, []).append(item)
        shuffled = list(files.values())
        self.random.shuffle(shuffled)
        for tests in shuffled:
            self.random.shuffle(tests)
        items[:] = [item for tests in shuffled for item in tests]

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] = self.counts.get(report.outcome, 0) + 1
        if report.failed:
            self.failed.append(report.nodeid)
        if report.when == "teardown":
            self.seen += 1
            if self.seen % COLLECT_AFTER == 0:
                gc.collect()


def files():
    """Return all files with tests, large ones first, so that every n-th are a fair share."""
    found = [*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("memoa_jax/*.py")]
    return sorted(found, key=lambda path: (-path.stat().st_size, path))


def work(share, shares, seeds):
    """Make the passes of one worker; return whether all tests passed."""
    chosen, fine = [str(path) for path in files()[share::shares]], True
    for seed in seeds:
        order, start = AnyOrder(seed), time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            said = Path(folder, "said.txt")
            options = ["-q", "--tb=long", "-p", "no:cacheprovider", "-p", "no:randomly"]
            with said.open("w") as file, contextlib.redirect_stdout(file):
                code = pytest.main([*options, f"--basetemp={folder}/tmp", *chosen], plugins=[order])
            text = said.read_text()
        fine = fine and code == 0
        counts = ", ".join(f"{count} {what}" for what, count in sorted(order.counts.items()))
        seconds = time.monotonic() - start
        print(f"order {seed}, share {share + 1} of {shares}: {counts}, {seconds:.0f} s", flush=True)
        if code != 0:
            print(text[-20_000:], *order.failed, sep="\n", flush=True)
        gc.collect()
        gc.freeze()
    return fine


def main():
    """Start the workers and wait for them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="the first order's number")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.chdir(ROOT)
    seeds = range(options.first, options.first + options.passes)
    if options.share is not None:
        return 0 if work(options.share, options.workers, seeds) else 1
    command = [sys.executable, __file__, *sys.argv[1:]]
    workers = [
        subprocess.Popen([*command, "--share", str(share)]) for share in range(options.workers)
    ]
    try:
        return max(worker.wait() for worker in workers)
    finally:
        for worker in workers:
            worker.kill()


if __name__ == "__main__":
    sys.exit(main())
