"""Malformed configs, made from good ones: one line per fault with its key, exit code 2, at once.

Single faults are planted in every table and key, then two and three together; text that is no
TOML, overrides, files that are none.
"""

import copy
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from malformed_bases import GOOD, at, dotted, toml
from malformed_faults import GONE, SHAPES, typos, wrong_values

from memoa_jax.cli import main

SECONDS = 1.5
SINGLE = [*typos(), *wrong_values(), *SHAPES]
HEAD = 'agents = 5\n[series]\nkind = "logistic"\n[[policy]]\nkind = "greedy"\n'
TEXTS = {
    "empty file": ("", ["series: missing; allowed is a table", "policy: missing; allowed is one"]),
    "byte order mark alone": ("\ufeff", ["series: missing", "policy: missing"]),
    "comments alone": ("# nothing\n", ["series: missing", "policy: missing"]),
    "no value": ("agents =\n", ["not valid TOML: *(at line 1, column "]),
    "bare word": (HEAD + "window = three\n", ["not valid TOML: *(at line 6, column "]),
    "Python's True": ("[run]\nuncoupled = True\n", ["not valid TOML: *(at line 2, column "]),
    "two equal signs": ("agents == 5\n", ["not valid TOML: *(at line 1, column "]),
    "leading zero": ("agents = 05\n", ["not valid TOML: *(at line 1, column "]),
    "quote never closed": ('name = "good\n', ["not valid TOML: *(at line 1, column "]),
    "bracket never closed": ("[series\n", ["not valid TOML: *(at line 1, column "]),
    "list never closed": ("policy = [\n", ["not valid TOML: *(at end of document)"]),
    "key twice": ("agents = 1\nagents = 2\n", ["not valid TOML: *(at line 2, column "]),
    "table twice": (HEAD + "[series]\n", ["not valid TOML: *(at line 6, column "]),
    "list over table": (HEAD + "[[series]]\n", ["not valid TOML: *(at line 6, column "]),
    "colon": ("agents: 5\n", ["not valid TOML: *(at line 1, column "]),
    "JSON": ('{"agents": 5}\n', ["not valid TOML: *(at line 1, column "]),
    "NUL": (HEAD + "\0", ["not valid TOML: *(at line 6, column "]),
    "Latin-1": (b"name = 'caf\xe9'\n", ["not a text file (byte 11 is not UTF-8)"]),
    "UTF-16": (HEAD.encode("utf-16"), ["not a text file (byte 0 is not UTF-8)"]),
    "5,000 digits": ("agents = " + 5000 * "9", ["cannot be read (Exceeds the limit (4300 digits)"]),
    "absurd nesting": ("agents = " + 5000 * "[", ["cannot be read ("]),
}
OVERRIDES = {
    "agents": "allowed is KEY=VALUE with a dotted key, such as policy.0.window=5",
    "=3": "allowed is KEY=VALUE with a dotted key, such as policy.0.window=5",
    "run..chunk=3": "allowed is KEY=VALUE with a dotted key, such as policy.0.window=5",
    "agents=": 'agents = "": allowed is a whole number >= 1',
    "agents=many": 'agents = "many": allowed is a whole number >= 1',
    "agents=true": "agents = true: allowed is a whole number >= 1",
    "agents=nan": "agents = nan: allowed is a whole number >= 1",
    "agents.x=3": "agents is no table",
    "agnts=3": "agnts: unknown key; did you mean agents?",
    "run.chnk=3": "run.chnk: unknown key; did you mean chunk?",
    "series.kind=brownain": 'series.kind = "brownain": unknown kind; did you mean brownian?',
    "series={kind='logistc'}": 'series.kind = "logistc": unknown kind; did you mean logistic?',
    "series=3": "series = 3: allowed is a table",
    "policy=[]": "policy = []: allowed is one [[policy]] table or more",
    "policy.7.window=2": "policy has 2 elements, counted from 0",
    "policy.-1.window=2": "policy has no element -1; allowed: ",
    "policy.alon.window=2": "policy has no element alon; did you mean alone?",
    "policy.alone.windw=2": "policy.0.windw: unknown key; did you mean window?",
    "policy.together.cost.effort=-1": "policy.1.cost.effort = -1: allowed is a number > 0",
    "policy.together.name=alone": 'policy.1.name = "alone": taken by another policy',
    "encoder.views.delay=0.5": "encoder.views.delay = 0.5: allowed is a whole number >= 0",
    "series.path=none.csv": "series.path: unknown key; allowed: ",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data.csv").write_text("y,x\n1,2\n")


def planted(*faults):
    """Write a good config with faults in it."""
    raw = copy.deepcopy(GOOD[faults[0].base])
    for _, place, value, _ in faults:
        table = at(raw, place[:-1])
        if value is GONE:
            del table[place[-1]]
        else:
            table[place[-1]] = value
    path = Path("bad.toml")
    path.write_text(toml(raw))
    return path


def validate(capsys, path, *words):
    """Return the lines about a config that is not valid, and hold the clock."""
    seconds = []
    for _ in range(3):  # the fastest: the machine, and the collector of this process, may pause it
        start = time.perf_counter()
        code = main(["validate", str(path), *words])
        seconds.append(time.perf_counter() - start)
        told = capsys.readouterr()
        assert (code, told.out) == (2, ""), told
        if seconds[-1] < SECONDS:
            return told.err.splitlines()
    pytest.fail(f"took {seconds} seconds: allowed are {SECONDS}")


def fits(line, said):
    """Whether a line begins as said, and goes on as said after a star."""
    head, _, tail = said.partition("*")
    return line.startswith(head) and tail in line[len(head) :]


def assert_told(lines, said):
    """Each fault has one line of its own, and there are no others."""
    assert len(lines) == len(said), lines
    assert all("Traceback" not in line and line.isprintable() for line in lines)
    for one in said:
        assert sum(fits(line, one) for line in lines) == 1, (one, lines)


@pytest.mark.parametrize("base", GOOD)
def test_the_configs_that_faults_are_planted_in_are_valid(base, capsys):
    Path("good.toml").write_text(toml(GOOD[base]))
    assert main(["validate", "good.toml"]) == 0
    assert capsys.readouterr().out.startswith("good.toml: valid: 5 agents, ")


@pytest.mark.parametrize("fault", SINGLE, ids=lambda f: f"{f.base}: {dotted(f.place)}")
def test_every_fault_is_one_line_with_its_key(fault, capsys):
    lines = validate(capsys, planted(fault))
    assert_told(lines, [f"memoa: bad.toml: {fault.said}"])


def together(size, count):
    """Draw faults of one config in keys that have nothing to do with each other."""
    draws, pool = random.Random(size), [*typos(), *wrong_values()]
    while count:
        faults = draws.sample(pool, size)
        tables = [fault.place[:-1] for fault in faults]
        apart = len({fault.base for fault in faults}) == 1 and len(set(tables)) == size
        kinds = [fault for fault in faults if fault.place[-1] in ("kind", "method")]
        if apart and not kinds:
            count -= 1
            yield tuple(faults)


@pytest.mark.parametrize(
    "faults",
    [*together(2, 30), *together(3, 30)],
    ids=lambda faults: " ".join(dotted(fault.place) for fault in faults),
)
def test_faults_are_told_together(faults, capsys):
    lines = validate(capsys, planted(*faults))
    assert_told(lines, [f"memoa: bad.toml: {fault.said}" for fault in faults])


@pytest.mark.parametrize(("text", "said"), TEXTS.values(), ids=TEXTS)
def test_text_that_is_no_config_is_told_with_its_line(text, said, capsys):
    Path("bad.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_told(validate(capsys, "bad.toml"), [f"memoa: bad.toml: {one}" for one in said])


@pytest.mark.parametrize(("override", "said"), OVERRIDES.items())
def test_an_override_that_is_wrong_is_named(override, said, capsys):
    Path("good.toml").write_text(toml(GOOD["run"]))
    lines = validate(capsys, "good.toml", "--set", override)
    assert_told(lines, [f"memoa: --set {override}: {said}"])


def test_faults_of_the_file_and_of_overrides_are_told_together(capsys):
    fault = next(one for one in SINGLE if one.base == "run" and one.place == ("agents",))
    words = [word for text in list(OVERRIDES)[-6:-4] for word in ("--set", text)]
    lines = validate(capsys, planted(fault), *words)
    said = [f"memoa: --set {text}: {told}" for text, told in list(OVERRIDES.items())[-6:-4]]
    assert_told(lines, [f"memoa: bad.toml: {fault.said}", *said])


def test_files_that_are_no_configs_are_one_line(capsys):
    Path("folder.toml").mkdir()
    Path("quick.toml").write_text(HEAD)
    for name, said in (
        ("folder.toml", "is a folder; give a .toml file"),
        ("quik.toml", "no such file; did you mean quick.toml?"),
        ("quick.toml/x.toml", "cannot be read (Not a directory)"),
        ("none.toml", "no such file"),
    ):
        assert validate(capsys, name) == [f"memoa: {name}: {said}"]


@pytest.mark.parametrize("faults", [SINGLE[:1], SINGLE[-1:], *together(3, 1)], ids=len)
def test_a_process_tells_faults_in_time(faults):
    command = [sys.executable, "-m", "memoa_jax", "validate", str(planted(*faults))]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    seconds = []
    for _ in range(3):  # the fastest: others may be at work on the machine
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        seconds.append(time.perf_counter() - start)
        assert (done.returncode, done.stdout) == (2, "")
        assert_told(done.stderr.splitlines(), [f"memoa: bad.toml: {one.said}" for one in faults])
    assert min(seconds) < SECONDS
