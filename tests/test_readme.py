"""The README's promises: every command and example in it is executed, its files exist.

A new block of the README is found by itself. Where a test says that an entry is missing, it names
the table of this file to put it in: RUN for commands of `memoa`, NOT_RUN for other commands,
COMPLETED for TOML that is no part of the usual config.
"""

import argparse
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import TINY, environment

from memoa_jax import cli, disk_keeper
from memoa_jax.cli import VERIFY_PARTS, main
from memoa_jax.config_faults import ConfigError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


class Entry(NamedTuple):
    """How a command of the README is run here.

    `beside` are options that make it quick, `unfinished` a folder where a run must wait to be gone
    on with; what takes long all the same is `slow`.
    """

    beside: str = ""
    unfinished: str = ""
    slow: bool = False


RUN = {
    "memoa run configs/quickstart.toml": Entry(
        "--set agents=5 --set run.uncoupled=false --set run.best_readout=false"
    ),
    "memoa tune configs/tune.toml": Entry("--set agents=3 --set tune.steps=1", slow=True),
    "memoa report runs/quickstart": Entry(),
    "memoa robustness": Entry(
        "--only costs --seeds 1 --agents 2 --crowd 2 --out runs/robustness", slow=True
    ),
    "memoa run --resume runs/NAME": Entry(unfinished="runs/NAME"),
    "memoa run configs/million.toml --distributed localhost:9999,2,0": Entry(
        "--set agents=64 --set series.steps=20", slow=True
    ),
    "memoa run configs/million.toml --distributed localhost:9999,2,1": Entry(
        "--set agents=64 --set series.steps=20", slow=True
    ),
}
"""Every command of `memoa` in a bash block, by its words, and what makes it quick.

Commands are run one after the other in a folder with the repository's configs/. A command or a
Python block that names runs/quickstart and does not make it finds a small run there.
"""

NOT_RUN = {
    r"python3 -m venv \.venv": "makes an environment; .ci/run does",
    r"\.venv/bin/pip install --quiet (-e )?('\.\[(plot|test)\]'|\.)": "downloads; .ci/run does",
    r"\.venv/bin/python -m pytest -n 2": "is this very suite",
}
"""Other commands of bash blocks, as regular expressions, and why no test runs them."""

COMPLETED: dict[str, str] = {}
"""By a line of a TOML block: the tables that make a whole config of it, in place of `usual`."""

USUAL = """
[series]
kind = "logistic"
[encoder]
kind = "random_features"
[[policy]]
kind = "greedy"
[[policy]]
kind = "decentralized"
"""
TUNED = '[[policy]]\nkind = "decentralized"\ngame = "forecast"\n'


class Block(NamedTuple):
    """A block of the README: its language, its line, its text."""

    language: str
    line: int
    text: str


def blocks(language):
    """Find the blocks of a language."""
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    every = [Block(one[1], README[: one.start()].count("\n") + 1, one[2]) for one in found]
    return [one for one in every if one.language == language]


def named(found):
    """Name the parameters of a test by the lines of the README."""
    return [pytest.param(one, id=f"line-{one.line}") for one in found]


def commands(text):
    """Split the lines of a shell into commands, each with whether it goes to the background."""
    found = []
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        pieces = [piece.strip() for piece in re.split(r"&&|;", line)]
        found += [(one.removesuffix("&").strip(), one.endswith("&")) for one in pieces if one]
    return found


def ours(command):
    """Return a command of memoa without what leads to it; None for another one."""
    words = re.sub(r"^(\S*/)?python3? -m memoa_jax\b", "memoa", command)
    words = re.sub(r"^\S*/(?=memoa\b)", "", words)
    return words if words.split()[0] == "memoa" else None


def known_block(block):
    """Return the commands of memoa in a block; fail with what to do about one without entry."""
    found = []
    for command, background in commands(block.text):
        words = ours(command)
        place = f"README line {block.line}: `{command}`"
        if words is None:
            known = any(re.fullmatch(one, command) for one in NOT_RUN)
            assert known, f"{place} is run by no test: add it to NOT_RUN in tests/test_readme.py"
        else:
            assert words in RUN, (
                f"{place} is run by no test: add {words!r} to RUN in tests/test_readme.py, with "
                "options that make it quick"
            )
            found.append((words, background))
    return found


BASH = blocks("bash")


@pytest.mark.parametrize("block", named(BASH))
def test_every_command_has_an_entry(block):
    known_block(block)


def test_no_entry_is_left_over():
    every = [command for block in BASH for command, _ in commands(block.text)]
    assert set(RUN) <= {ours(command) for command in every}
    for pattern in NOT_RUN:
        assert any(re.fullmatch(pattern, command) for command in every), pattern
    for line in COMPLETED:
        assert any(line in block.text.splitlines() for block in blocks("toml")), line


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the configs, a table as the README's, and a small runs/quickstart."""
    place = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "configs", place / "configs")
    rows = [f"2001-01-01T00:00:{k / 1e4:07.4f},{1 + k % 7}.5,{k % 5}" for k in range(2001)]
    (place / "prices.csv").write_text("\n".join(["day,close,volume", *rows]) + "\n")
    return place


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A copy of that folder, and in it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quickstart(made):
    """Make the small run that stands for the quickstart's results, once."""
    folder = made / "runs" / "quickstart"
    if not folder.exists():
        (made / "tiny.toml").write_text(TINY.replace('"tiny"', '"quickstart"'))
        assert main(["run", str(made / "tiny.toml"), "--out", str(folder)]) == 0
    return folder


def needs_quickstart(text):
    """Tell whether something reads the quickstart's results."""
    return "runs/quickstart" in text and "configs/quickstart.toml" not in text


def leave_unfinished(folder, monkeypatch):
    """Leave a run in a folder that was killed on its way."""
    Path("tiny.toml").write_text(TINY[: TINY.index("[[policy]]", TINY.index("[[policy]]") + 1)])
    real = disk_keeper.DiskKeeper.offer

    def offer(self, *arguments):
        self.stop.signal = 2
        real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(disk_keeper.DiskKeeper, "offer", offer)
        patch.setattr("memoa_jax.resident.LEAST_CHUNK", 4)
        patch.setattr("memoa_jax.resident.DEFAULT_CHUNK", 4)
        assert main(["run", "tiny.toml", "--out", folder]) == 130
    assert (Path(folder) / "checkpoint" / "identity.json").exists()


def runnable():
    """Return the blocks that hold a command of memoa; those with a slow one are slow."""
    for block in BASH:
        own = [words for command, _ in commands(block.text) if (words := ours(command))]
        slow = any(RUN.get(words, Entry()).slow for words in own)
        if own:
            marks = [pytest.mark.slow] if slow else []
            yield pytest.param(block, id=f"line-{block.line}", marks=marks)


@pytest.mark.parametrize("block", list(runnable()))
def test_commands_run(block, place, made, monkeypatch):
    found = known_block(block)
    if any(background for _, background in found):
        together([words for words, _ in found])
        found = []
    for words, _ in found:
        entry = RUN[words]
        if entry.unfinished:
            leave_unfinished(entry.unfinished, monkeypatch)
        if needs_quickstart(words):
            shutil.copytree(quickstart(made), place / "runs" / "quickstart", dirs_exist_ok=True)
        assert main(shlex.split(f"{words} {entry.beside}")[1:]) == 0, words


def together(lines):
    """Run the commands of a block side by side, on a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [f"{line} {RUN[line].beside}".replace("9999", port) for line in lines]
    words = [shlex.split(one)[1:] for one in words]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "memoa_jax", *one],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for one in words
    ]
    for one in started:
        _, complaint = one.communicate(timeout=500)
        assert one.returncode == 0, complaint[-3000:]


def subcommands():
    """Yield each command with its options."""
    for action in cli._parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, parser in action.choices.items():
                yield name, {word for one in parser._actions for word in one.option_strings}


OPTIONS = dict(subcommands())
INLINE = sorted(set(re.findall(r"`(memoa [^`]+)`", " ".join(README.split()))))


@pytest.mark.parametrize("line", INLINE)
def test_commands_in_sentences_are_such(line, place):
    """They parse, and the configs that they name are valid; blocks are what is run."""
    words = shlex.split(line)[1:]
    assert words[0] in OPTIONS, f"README: `{line}`: no such command"
    assert {word for word in words if word.startswith("--")} <= OPTIONS[words[0]], line
    for word in words:
        if word.endswith(".toml"):
            assert main(["validate", word]) == 0, line


def test_the_usage_names_options_that_there_are():
    (usage,) = [one for one in blocks("text") if one.text.startswith("memoa ")]
    for line in re.sub(r"\n\s+", " ", usage.text).splitlines():
        assert set(re.findall(r"--[\w-]+", line)) <= OPTIONS[line.split()[1]], line


@pytest.mark.parametrize("block", named(blocks("toml")))
def test_toml_blocks_are_parts_of_a_config(block, place):
    from memoa_jax import build
    from memoa_jax.config_file import load

    tables = tomllib.loads(block.text)
    chosen = [extra for line, extra in COMPLETED.items() if line in block.text.splitlines()]
    usual = USUAL.replace(USUAL[USUAL.index("[[policy]]") :], TUNED) if "tune" in tables else USUAL
    rest = tomllib.loads(chosen[0] if chosen else usual)
    # Tables of the block stand for themselves, those that it lacks come from the rest.
    lacking = [name for name in rest if name not in tables]
    parts = re.split(r"^(?=\[)", chosen[0] if chosen else usual, flags=re.MULTILINE)
    kept = [one for one in parts if any(re.match(rf"\[+{name}\]", one) for name in lacking)]
    Path("block.toml").write_text(block.text + "\n" + "".join(kept))
    try:
        config = load("block.toml")
    except ConfigError as error:
        pytest.fail(
            f"README line {block.line}: no part of a config: {'; '.join(error.faults)}. If it is "
            "one of another config, add a line of it with the rest to COMPLETED"
        )
    if "series" in tables:
        assert build.series(config.series).num_points > 1


PYTHON = blocks("python")


@pytest.mark.parametrize("block", named(PYTHON))
@pytest.mark.parametrize(
    "quick",
    [pytest.param(True, id="quick"), pytest.param(False, id="full", marks=pytest.mark.slow)],
)
def test_python_blocks_run(block, quick, place, made):
    if needs_quickstart(block.text):
        shutil.copytree(quickstart(made), place / "runs" / "quickstart", dirs_exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import jax\n" + block.text],
        env=environment(quick=quick),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d", done.stdout), "it prints no number"


def test_blocks_are_of_a_language_that_is_tested():
    fences = re.findall(r"^```(\w*)$", README, re.MULTILINE)[::2]
    assert set(fences) <= {"bash", "toml", "python", "text", ""}
    assert README.count("```bash") == len(BASH)
    assert README.count("```python") == len(PYTHON) >= 2
    assert README.count("```toml") == len(blocks("toml"))


def test_a_new_block_without_an_entry_is_named():
    """The check itself: what it says of a README with a block that nobody knows."""
    new = Block("bash", 7, "cd there && .venv/bin/memoa run new.toml --set a=1  # as it is\n")
    with pytest.raises(AssertionError, match=r"line 7: `cd there` is run by no test: .* NOT_RUN"):
        known_block(new)
    new = Block("bash", 8, "python -m memoa_jax run new.toml \\\n    --fresh &\n")
    assert commands(new.text) == [("python -m memoa_jax run new.toml --fresh", True)]
    with pytest.raises(AssertionError, match=r"add 'memoa run new.toml --fresh' to RUN"):
        known_block(new)
    assert ours(".venv/bin/memoa list") == "memoa list"
    assert ours("memoa-other list") is None


def test_there_are_two_set_up_commands():
    found = re.findall(r"<!-- \w+ command -->\n```bash\n(.*)\n```", README)
    assert len(found) == 2
    assert "configs/quickstart.toml" in found[0]
    assert "pytest" in found[1]


def test_named_files_and_configs_exist():
    for name in set(re.findall(r"`([\w/.]+\.(?:py|md|toml))`", README)):
        places = [ROOT, ROOT / "memoa_jax", ROOT / "configs" / "plugins"]
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


def test_every_part_of_the_verification_has_its_line():
    assert set(re.findall(r"--only ([\w-]+)`", README)) == set(VERIFY_PARTS)
