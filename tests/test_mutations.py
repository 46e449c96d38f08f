"""`memoa verify` must fail when the mathematics is wrong: the package is broken, line by line.

Each mutation is made in a copy of the package, and the command is run on the copy. Slow: a
verification per mutation, of the parts that are to notice.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "memoa_jax"
MUTATIONS = {
    "nash.py: the 1/N in the Nash Hessian is dropped": (
        "nash.py",
        "H = H2 - share * matmul(m.T, slope[:, d:-1], m)",
        "H = H2",
        "reduction",
    ),
    "nash.py: the 1/N in the Nash Hessian has the wrong sign": (
        "nash.py",
        "H = H2 - share * matmul(m.T, slope[:, d:-1], m)",
        "H = H2 + share * matmul(m.T, slope[:, d:-1], m)",
        "exploitability",
    ),
    "nash.py: the team's consensus cost has the wrong sign": (
        "nash.py",
        "(cost.ensemble - cost.consensus) * eye",
        "(cost.ensemble + cost.consensus) * eye",
        "minimax",
    ),
    "nash.py: the team forgets the noise in the mean": (
        "nash.py",
        "H = moments.gram(later.spread) + share * moments.covariance(C)",
        "H = moments.gram(later.spread)",
        "minimax",
    ),
    "nash.py: the team forgets to pull the mean to the target": (
        "nash.py",
        "joint = joint.at[d:-1, -1].set(-pull * target).at[-1, d:-1].set(-pull * target)",
        "joint = joint",
        "minimax",
    ),
    "nash_step.py: an agent forgets that it moves the mean": (
        "nash_step.py",
        "slope = later.joint[:d] + share * later.joint[d:-1]",
        "slope = later.joint[:d]",
        "reduction",
    ),
    "nash_step.py: an agent forgets what its spread costs": (
        "nash_step.py",
        "slope = slope.at[:, :d].add(share * later.spread)",
        "slope = slope",
        "reduction",
    ),
    "nash_step.py: the noise in the mean costs nothing": (
        "nash_step.py",
        "X = moments.covariance(D + share * P[d:-1, d:-1])",
        "X = moments.covariance(D)",
        "monte-carlo",
    ),
    "nash_step.py: own noise and the mean's are not together": (
        "nash_step.py",
        "P[:d, :d] + 2 * share * symmetrise(P[:d, d:-1])",
        "P[:d, :d] + share * symmetrise(P[:d, d:-1])",
        "reduction",
    ),
    "nash_step.py: the means meet with the wrong sign": (
        "nash_step.py",
        "system = eye + moves[:, d:-1]",
        "system = eye - moves[:, d:-1]",
        "reduction",
    ),
    "types_step.py: an agent forgets what its spread costs": (
        "types_step.py",
        "slope = slope.at[:, :d].add(share * later.spread[index])",
        "slope = slope",
        "reduction",
    ),
    "analysis.py: a deviating agent miscounts the others": (
        "analysis.py",
        "rows[:, :d] + rows[:, d:-1], rows[:, -1:]], 1)",
        "rows[:, d:-1], rows[:, -1:]], 1)",
        "exploitability",
    ),
    "information.py: the mean is rolled forward without its offset": (
        "information.py",
        'control = einsum("kpa,ka->kp", gains_now.own, z) + offset',
        'control = einsum("kpa,ka->kp", gains_now.own, z)',
        "exploitability",
    ),
    "monte_carlo.py: efforts are not discounted": (
        "monte_carlo.py",
        "price = now.discount * game.cost.effort",
        "price = game.cost.effort",
        "monte-carlo",
    ),
}


def verify(package, folder, *parts):
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "JAX_PLATFORMS": "cpu"}
    only = [word for part in parts for word in ("--only", part)]
    command = [sys.executable, "-m", "memoa_jax", "verify", *only, "--out", str(folder / "out")]
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_formula_fails(name, tmp_path):
    file, right, wrong, part = MUTATIONS[name]
    copy = tmp_path / "memoa_jax"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    text = (copy / file).read_text()
    assert text.count(right) == 1
    (copy / file).write_text(text.replace(right, wrong))
    done = verify(copy, tmp_path, part)
    print(done.stdout)
    assert done.returncode == 1, done.stderr
    assert "FAILS" in done.stdout
    assert "does not hold: " in done.stderr


@pytest.mark.slow
def test_the_whole_programme_holds(tmp_path):
    done = verify(PACKAGE, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILS" not in done.stdout
    assert (tmp_path / "out/verification.json").stat().st_size > 1000
