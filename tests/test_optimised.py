"""What the rest of the suite compiles quickly, once more as users compile it."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOME = [
    "tests/test_canary.py",
    "tests/test_loop.py::test_reference_numbers[decentralized-3]",
    "tests/test_loop.py::test_float32_sums_of_a_large_population_are_right",
    "tests/test_forecast.py::test_reference_numbers[centralized-4.0]",
    "tests/test_mixture.py::test_reference_numbers[7]",
    "tests/test_draws.py",
]
"""Every kind of arithmetic once; the reference numbers of one policy of each game."""
ALL = [
    *SOME,
    "tests/test_loop.py::test_reference_numbers",
    "tests/test_loop.py::test_chunks_change_no_bit_and_compile_nothing",
    "tests/test_forecast.py::test_reference_numbers",
    "tests/test_mixture.py::test_reference_numbers",
]


@pytest.mark.parametrize("which", [SOME, pytest.param(ALL, marks=pytest.mark.slow)], ids=len)
def test_reference_numbers_at_full_optimization(which):
    if os.environ.get("MEMOA_TEST_OPTIMISED"):
        return  # this session is that one
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *which],
        cwd=ROOT,
        env={**os.environ, "MEMOA_TEST_OPTIMISED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
