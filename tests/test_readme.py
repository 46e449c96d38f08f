"""The README's promises: its Python runs, its files and commands exist, no config layer needed."""

import pathlib
import re
import subprocess
import sys

import pytest

from memoa_jax.cli import VERIFY_PARTS

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_blocks_run(number):
    code = "import jax\n" + BLOCKS[number]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d", done.stdout)


def test_there_are_two_set_up_commands_and_two_examples():
    assert len(BLOCKS) == 2
    commands = re.findall(r"<!-- \w+ command -->\n```bash\n(.*)\n```", README)
    assert len(commands) == 2
    assert "configs/quickstart.toml" in commands[0]
    assert "pytest" in commands[1]


def test_named_files_and_configs_exist():
    for name in set(re.findall(r"`([\w/.]+\.(?:py|md|toml))`", README)):
        places = [ROOT, ROOT / "memoa_jax", ROOT / "runs"]
        made_by_a_run = name in ("config.toml", "table.md", "best.toml", "final.toml")
        assert made_by_a_run or any((place / name).exists() for place in places), name
    sentence = README[README.index("`configs/` holds") :].split("The two last")[0]
    for name in re.findall(r"`(\w+)`", sentence):
        assert (ROOT / "configs" / f"{name}.toml").exists(), name


def test_the_library_works_without_the_config_layer():
    """Machines with an accelerator may have jax and no pydantic."""
    code = """
import sys
sys.modules["pydantic"] = None
import memoa_jax
assert "jax" not in sys.modules and "numpy" not in sys.modules
import jax
result = memoa_jax.simulate(
    memoa_jax.series.periodic(5), memoa_jax.given_features(jax.numpy.ones((6, 2, 1, 1))),
    memoa_jax.greedy(), memoa_jax.ridge_mixture(), num_agents=2, key=jax.random.key(0))
assert result.server.shape == (6, 1)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_starts_no_backend_and_prints_nothing():
    code = """
import memoa_jax, memoa_jax.simulate, memoa_jax.policies, memoa_jax.analysis, memoa_jax.encoders
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_part_of_the_verification_has_its_line():
    assert set(re.findall(r"--only ([\w-]+)`", README)) == set(VERIFY_PARTS)
