"""The permanent canary: every agent of a compiled population against numpy."""

import jax
import pytest

from memoa_jax import canary


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("outputs", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1, 16385, 32769, 100001])
def test_this_jax_computes_every_agent_right(size, outputs, dtype):
    bound = 2e-6 if dtype == "float32" else 1e-14
    assert canary.largest_error(size, outputs, dtype) < bound


def test_excluded_builds_are_not_installed():
    assert jax.__version__ not in ("0.10.2", "0.11.0", "0.11.1")


def test_a_bad_build_is_refused_in_one_line_with_the_fix(monkeypatch):
    monkeypatch.setattr(canary, "largest_error", lambda *_: 0.47)
    with pytest.raises(RuntimeError, match=r"wrong numbers.*pip install") as failure:
        canary.check_build()
    assert "\n" not in str(failure.value)


def test_a_build_that_answers_nan_is_refused(monkeypatch):
    monkeypatch.setattr(canary, "largest_error", lambda *_: float("nan"))
    with pytest.raises(RuntimeError):
        canary.check_build()
