import json

import jax.numpy as jnp
import numpy as np
import pytest
from brute_force import random_moments
from helpers import strict_json

from memoa_jax import cli, figures, verify
from memoa_jax.cli import main
from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.statement import Statement, bound_statement, difference, rate_statement
from memoa_jax.verify_exact import _joint
from memoa_jax.verify_rivals import _ratios, myopic_gains

SIZES = np.array([10.0, 100.0, 1000.0])


def of(*statements):
    return lambda: list(statements)


GOOD = Statement("good", "one is one", "1", "= 1", True, {"value": 1.0})
BAD = Statement("bad", "one is two", "1", "= 2", False, {"value": float("nan")})
TOLD = Statement("told", "who knows", "7", "reported, not claimed", None)


@pytest.fixture
def programme(monkeypatch):
    """Replace the parts by stand-ins; the command line keeps their names."""

    def replace(**parts):
        monkeypatch.setattr(verify, "PROGRAMME", dict(parts))
        monkeypatch.setattr(cli, "VERIFY_PARTS", tuple(parts))

    return replace


def test_the_command_line_names_the_programme():
    assert tuple(verify.PROGRAMME) == cli.VERIFY_PARTS
    assert set(figures._PANELS) | {"reduction"} == set(cli.VERIFY_PARTS)


def test_rates_hold_within_their_tolerance_only():
    exact = rate_statement("a", "b", SIZES, {"x": 3 / SIZES}, -1, 0.01, (10, 1000))
    assert exact.holds
    assert exact.data["slopes"]["x"] == pytest.approx(-1)
    assert not rate_statement("a", "b", SIZES, {"x": SIZES**-1.2}, -1, 0.1, (10, 1000)).holds
    # One series that is off fails the statement, and so does one that is not finite.
    both = {"x": 3 / SIZES, "y": SIZES**-2}
    assert not rate_statement("a", "b", SIZES, both, -1, 0.1, (10, 1000)).holds
    broken = {"x": np.array([1.0, np.nan, 1.0])}
    assert not rate_statement("a", "b", SIZES, broken, -1, 0.1, (10, 1000)).holds
    # Only the populations asked for count.
    late = {"x": np.array([9.0, 1 / 100, 1 / 1000])}
    assert rate_statement("a", "b", SIZES, late, -1, 0.1, (100, 1000)).holds


def test_bounds_and_differences():
    assert bound_statement("a", "b", 1e-12, 1e-10).holds
    assert not bound_statement("a", "b", 1e-9, 1e-10).holds
    assert not bound_statement("a", "b", float("nan"), 1e-10).holds
    assert difference([np.array([1.0, 4.0])], [np.array([1.0, 5.0])]) == pytest.approx(0.2)
    assert difference([np.zeros(2)], [np.zeros(2)]) == 0
    assert np.isnan(difference([np.array([np.nan])], [np.ones(1)]))


def test_ratios_are_told_as_they_are():
    ratio = np.array([0.5, 0.8, 0.9, 1.5])
    claimed = _ratios("a", "b", {"all": ratio}, claimed=True)
    assert claimed.holds
    assert claimed.data["all"]["rival_wins"] == 0.25
    assert claimed.data["all"]["quantiles"]["0.5"] == pytest.approx(0.85)
    assert _ratios("a", "b", {"all": 1 / ratio}, claimed=True).holds is False
    assert _ratios("a", "b", {"all": 1 / ratio}, claimed=False).holds is None


def test_gains_on_the_joint_state():
    rng = np.random.default_rng(0)
    from memoa_jax.nash import FeedbackGains

    gains = FeedbackGains(
        *(jnp.asarray(rng.normal(size=s)) for s in ((2, 3, 2), (2, 3, 2), (2, 3)))
    )
    state, offset = _joint(gains, 4)
    states = rng.normal(size=(4, 2))
    control = np.einsum("itpx,x->itp", state, states.reshape(-1)) + offset
    for i in range(4):
        for t in range(2):
            expected = gains.own[t] @ states[i] + gains.mean[t] @ states.mean(0) + gains.offset[t]
            np.testing.assert_allclose(control[i, t], expected, rtol=1e-12)


def test_myopic_agents_minimise_their_next_step():
    rng = np.random.default_rng(1)
    moments = FeatureMoments(*random_moments(rng, 3, 2, 2))
    targets = rng.normal(size=(3, 2))
    gains = myopic_gains(GameCost(0.7, 2.0, 1.0, 0.3, 0.2), moments, targets)
    assert np.max(np.abs(gains.mean)) < 1e-15
    y = rng.normal(size=2)
    for t in range(3):
        gram = 0.7 * np.einsum("aakl->kl", moments.second[t]) + 0.3 * np.eye(2)
        best = -np.linalg.solve(gram, 0.7 * moments.mean[t].T @ (y - targets[t]))
        np.testing.assert_allclose(-(gains.own[t] @ y + gains.offset[t]), best, rtol=1e-12)


@pytest.mark.filterwarnings("default")
def test_two_parts_of_the_real_programme(tmp_path, capsys):
    words = ["verify", "--only", "anarchy", "--only", "convergence", "--out", str(tmp_path)]
    assert main([*words, "--log-level", "info"]) == 0
    out, err = capsys.readouterr()
    assert "2 of 2 statements hold" in out
    assert err.index("convergence: none fails of 1") < err.index("anarchy: none fails of 1")
    report = strict_json(tmp_path / "verification.json")
    assert report["holds"]
    assert not report["interrupted"]
    assert [one["part"] for one in report["statements"]] == ["convergence", "anarchy"]
    assert len(report["statements"][0]["data"]["errors"]["own"]) == 18
    for one in report["statements"]:
        assert one["claim"] in out
        assert one["measured"] in out
    pytest.importorskip("matplotlib")
    assert (tmp_path / "verification.png").read_bytes()[:4] == b"\x89PNG"


def test_what_does_not_hold_is_code_1(programme, tmp_path, capsys):
    programme(first=of(GOOD, TOLD), second=of(BAD))
    assert main(["verify", "--out", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "FAILS" in out
    assert "1 of 2 statements hold" in out
    assert "memoa: does not hold: bad\n" in err
    report = strict_json(tmp_path / "verification.json")
    assert report["holds"] is False
    assert report["statements"][2]["data"] == {"value": None}


def test_a_part_that_breaks_does_not_hold_and_the_rest_goes_on(programme, tmp_path, capsys):
    def broken():
        raise FloatingPointError("no\nnumbers")

    programme(first=broken, second=of(GOOD))
    assert main(["verify", "--out", str(tmp_path), "--format", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [one["holds"] for one in report["statements"]] == [False, True]
    assert report["statements"][0]["measured"] == "FloatingPointError: no numbers"


def test_an_interrupt_keeps_what_was_found(programme, tmp_path, capsys):
    def interrupt():
        raise KeyboardInterrupt

    programme(first=of(GOOD), second=interrupt, third=of(GOOD))
    assert main(["verify", "--out", str(tmp_path)]) == 130
    out, err = capsys.readouterr()
    assert "INTERRUPTED: not run: second, third" in out
    assert "memoa: interrupted; not run: second, third" in err
    report = strict_json(tmp_path / "verification.json")
    assert report["interrupted"]
    assert not report["holds"]


def test_without_matplotlib_there_is_a_line_and_no_figure(programme, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    programme(convergence=of(GOOD))
    assert main(["verify", "--out", str(tmp_path), "--log-level", "info"]) == 0
    assert "no figure: matplotlib is not installed: pip install 'memoa-jax[plot]'" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "verification.png").exists()


@pytest.mark.filterwarnings("default")
def test_figures_survive_what_is_not_finite(tmp_path):
    pytest.importorskip("matplotlib")
    broken = rate_statement("a", "b", SIZES, {"x": np.full(3, np.nan)}, -1, 0.1, (10, 1000))
    report = {
        "statements": [{"part": "convergence", "name": "a", "data": verify._plain(broken.data)}]
    }
    figures.draw_verification(report, tmp_path / "broken.png")
    assert (tmp_path / "broken.png").stat().st_size > 1000
    with pytest.raises(figures.FigureError, match="none of the parts"):
        figures.draw_verification({"statements": []}, tmp_path / "none.png")


def test_wrong_usage_is_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["verify", "--only", "luck"])
    assert stop.value.code == 2
    assert "invalid choice: 'luck'" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["verify", "--out", str(tmp_path / "file")]) == 2
    assert "a file stands in the way" in capsys.readouterr().err
