"""Progress: its arithmetic, what is shown where, and that it changes nothing."""

import io
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import FORECAST, GREEDY, SMALL

from memoa_jax import progress, resident, speaking, verify
from memoa_jax.cli import main
from memoa_jax.encoders import random_features
from memoa_jax.mixture import ridge_mixture
from memoa_jax.policies import decentralized, greedy
from memoa_jax.progress import SHARE, SILENT, Pace, Watch
from memoa_jax.series import periodic
from memoa_jax.simulate import simulate
from memoa_jax.speaking import line_of
from memoa_jax.statement import Statement
from memoa_jax.timeseries import make_series
from memoa_jax.watching import Live, Moment


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def moment(done, of=100, part=1, parts=1, unit="step", figures=Live):
    return Moment(done, of, figures, part, parts, unit)


def test_pace_leaves_compilation_and_the_first_piece_out():
    clock, compiled = Clock(), Clock()
    compiled.now = 0.0
    pace = Pace(clock, compiled)
    assert pace.at(40) is None  # taken up at 40: what was done before took no time of ours
    clock.now, compiled.now = 110.0, 8.0
    assert pace.at(50) == pytest.approx(10 / 2.0)  # ten seconds, eight of them compilation
    clock.now = 111.0
    assert pace.at(60) == pytest.approx(10.0)  # from the second piece on: 10 in a second
    clock.now, compiled.now = 116.0, 11.0
    assert pace.at(90) == pytest.approx(40 / 3.0)  # 40 since the first piece, in 6 - 3 seconds
    assert pace.spent == pytest.approx(16.0 - 11.0)


def listened(every=1.0):
    clock, events = Clock(), []
    return clock, events, Watch(events.append, clock, every)


def test_rates_and_remaining_times_are_right():
    clock, events, watch = listened(every=0.0)
    see = watch.policy("a", 1, 2, agent_steps=50 * 1000, compiling=lambda: 0.0)
    for done in (0, 20, 40):
        see(moment(done, of=50))
        clock.now += 4.0
    assert [one["step"] for one in events] == [0, 20, 40]
    assert {one["steps"] for one in events} == {49}  # 50 rows are 49 steps
    last = events[-1]
    assert last["agent_steps_per_second"] == pytest.approx(5 * 1000)  # 5 rows a second
    assert last["remaining_seconds"] == pytest.approx(10 / 5)
    # The policy to come is expected to take what this one takes: 40 rows in 8 s, 10 in 2 s.
    assert last["remaining_seconds_in_all"] == pytest.approx(2 + 8 + 2)
    see(moment(50, of=50))
    see = watch.policy("b", 2, 2, agent_steps=50 * 1000, compiling=lambda: 0.0)
    for done in (0, 10):
        see(moment(done, of=50))
        clock.now += 1.0
    assert events[-1]["policy"] == "b"
    assert events[-1]["remaining_seconds_in_all"] == pytest.approx(40 / 10)  # nothing comes after


def test_every_pass_of_a_stream_has_its_own_pace():
    clock, events, watch = listened(every=0.0)
    see = watch.policy("a", 1, 1, agent_steps=8 * 100, compiling=lambda: 0.0)
    for part, seconds in ((1, 1.0), (2, 3.0)):
        for done in (0, 2, 4, 6, 8):
            see(moment(done, of=8, part=part, parts=2, unit="block"))
            clock.now += seconds
    first = [one for one in events if one["pass"] == 1]
    second = [one for one in events if one["pass"] == 2]
    assert first[2]["remaining_seconds"] == pytest.approx(4 / 2 + 8 / 2)  # the second like this one
    assert second[2]["remaining_seconds"] == pytest.approx(4 / (2 / 3))
    assert second[2]["agent_steps_per_second"] == pytest.approx(2 / 3 * 100)
    assert second[-1]["block"] == second[-1]["blocks"] == 8


def test_figures_are_looked_at_once_a_second_and_for_a_fiftieth_of_the_time():
    clock, events, watch = listened()
    looks = []

    def figures():
        looks.append(clock.now)
        clock.now += 0.5  # an expensive look
        return Live(1.0)

    see = watch.policy("a", 1, 1, 1.0, lambda: 0.0)
    see(moment(0, 10**6))
    for done in range(1, 1001):
        clock.now += 0.125
        see(moment(done, 10**6, figures=figures))
    assert looks[0] == pytest.approx(101.0)  # not in the first second
    assert np.diff(looks).min() >= 0.5 * SHARE
    assert looks == [101.0, 126.5, 152.0, 177.5, 203.0]
    assert len(events) == 6


def test_nobody_is_asked_where_nobody_listens():
    assert SILENT.policy("a", 1, 1, 1.0, lambda: 0.0) is None
    SILENT.event("policy", label="a")
    SILENT.steps("call", 3)(1)


def test_parts_of_a_command_count_all_of_its_tasks():
    clock, events, watch = listened(every=0.0)
    for cell in range(3):
        within = watch.within(f"cell {cell}", before=2 * cell, tasks=6)
        for number in (1, 2):
            see = within.policy("a", number, 2, 1.0, lambda: 0.0)
            for done in (0, 5, 10):
                see(moment(done, 10))
                clock.now += 1.0
            left = 6 - 2 * cell - number  # two seconds each
            assert events[-1]["remaining_seconds_in_all"] == pytest.approx(2.0 * left)
            assert events[-1]["within"] == f"cell {cell}"


@pytest.mark.parametrize("columns", [0, 1, 9, 30, 45, 60, 79, 200])
def test_a_line_fits_any_terminal_and_loses_what_matters_least(columns):
    facts = {"policy": "greedy", "number": 1, "policies": 2, "step": 5, "steps": 10}
    facts |= {"agent_steps_per_second": 1e6, "remaining_seconds": 3.0, "diverged_agents": 7}
    facts |= {"server_rmse": 0.25, "worst_agent_rmse": float("inf"), "within": "co2, seed 3"}
    line = line_of({"event": "progress", **facts}, columns)
    assert len(line) <= columns
    whole = line_of({"event": "progress", **facts})
    assert whole == (
        "co2, seed 3  greedy 1/2  step 5/10  1.00M agent-steps/s  3 s left  7 diverged  "
        "server 0.25  worst inf"
    )
    assert columns < len(whole) or line == whole
    assert columns < 34 or ("step 5/10" in line and "7 diverged" in line)


def run(watch=None, rows=None, **options):
    series = periodic(40)
    if rows is not None:
        series = make_series(series.inputs[:rows], series.targets[:rows])
    chosen = {"num_agents": 7, "key": jax.random.key(3), "chunk": 8, **options}
    policy = chosen.pop("policy", greedy())
    parts = (random_features(3), policy, ridge_mixture())
    return simulate(series, *parts, watch=watch, **chosen)


@pytest.mark.parametrize("best_readout", [False, True])
def test_live_figures_are_those_of_the_rows_so_far(best_readout):
    seen = []
    options = {"best_readout": best_readout, "dtype": "float64"}
    watched = run(lambda one: seen.append((one.done, one.of, one.figures())), **options)
    assert [(done, of) for done, of, _ in seen] == [(d, 41) for d in (0, 8, 16, 24, 32, 40, 41)]
    assert seen[0][2] == Live()
    for done, _, live in (seen[1], seen[4], seen[6]):
        found = run(rows=done, **options).summary
        assert live.server_rmse == pytest.approx(float(found.server_rmse), rel=1e-12)
        assert live.worst_agent_rmse == pytest.approx(float(found.worst_agent_rmse), rel=1e-12)
        assert live.worst_agent == int(found.worst_agent)
        assert live.diverged_agents == int(found.diverged_agents)
    assert_same(watched, run(**options))


def assert_same(one, other):
    """The same bits, everywhere."""
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


def test_a_stream_tells_its_passes_and_the_agents_that_are_over():
    seen = []
    options = {"schedule": "stream", "block": 2, "policy": decentralized(horizon=2)}
    options |= {"num_agents": 2 * 16 * 3, "keep_costs": True}
    watched = run(lambda one: seen.append((one, one.figures())), **options)
    parts = [one.part for one, _ in seen]
    assert parts == sorted(parts)
    assert {one.parts for one, _ in seen} == {max(parts)} == {3}  # two surveys, and the lives
    assert all(one.unit == "block" and one.of == 48 for one, _ in seen)
    assert all(live == Live() for one, live in seen if one.part < 3)
    (last, live), plain = seen[-1], run(**options)
    assert last.done == last.of
    assert live.worst_agent == int(plain.summary.worst_agent)
    assert live.worst_agent_rmse == pytest.approx(float(plain.summary.worst_agent_rmse), rel=1e-6)
    assert_same(watched, plain)


def look_always(monkeypatch):
    """After every call of four steps, however long a look takes."""
    monkeypatch.setattr(speaking, "EVERY", 0.0)
    monkeypatch.setattr(progress, "SHARE", 0)
    monkeypatch.setattr(resident, "DEFAULT_CHUNK", 4)
    monkeypatch.setattr(resident, "LEAST_CHUNK", 4)


class Terminal(io.StringIO):
    """A terminal that remembers what was written to it."""

    def isatty(self):
        return True

    @property
    def screen(self):
        """What stands there in the end: a return goes back to the line's beginning."""
        rows = []
        for written in self.getvalue().split("\n"):
            row = ""
            for part in written.split("\r"):
                row = part + row[len(part) :]
            rows.append(row.rstrip())
        return rows


@pytest.fixture
def small(here):
    (here / "small.toml").write_text(SMALL + GREEDY + FORECAST)


def on_terminal(monkeypatch):
    """Make stderr a terminal; in the test itself, as pytest gives every phase a stderr."""
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    look_always(monkeypatch)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return stream


def files(folder):
    """What a run wrote, without the times in its summary."""
    found = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    summary = json.loads(found.pop("summary.json"))
    found.pop("manifest.json")  # has the hash of the summary
    for policy in summary["policies"].values():
        for name in ("seconds", "compile_seconds", "agent_steps_per_second"):
            del policy[name]
    return found, summary


def test_on_a_terminal_there_is_one_line_and_results_are_the_same_bytes(small, monkeypatch):
    terminal = on_terminal(monkeypatch)
    assert main(["run", "small.toml", "--out", "shown"]) == 0
    written = terminal.getvalue()
    assert re.search(r"greedy 1/2  step 8/20  [\d.]+[kM]? agent-steps/s  .* left  server", written)
    assert "worst " in written
    assert "\x1b" not in written  # no colour, no control sequence: NO_COLOR has nothing to ask
    assert max(map(len, re.split("[\r\n]", written))) < 100
    screen = terminal.screen
    assert screen[-2:] == ["results in shown", ""]
    assert not any("step 8/20" in row for row in screen)  # nothing of it is left
    monkeypatch.setattr(sys, "stderr", plain := io.StringIO())
    assert main(["run", "small.toml", "--out", "plain"]) == 0
    assert plain.getvalue() == ""  # nothing at all where there is no terminal
    assert files("shown") == files("plain")


def test_ctrl_c_leaves_a_clean_line(small, monkeypatch):
    terminal = on_terminal(monkeypatch)
    real, asked = speaking.Speaker.hear, []

    def hear(self, facts):
        real(self, facts)
        if facts.get("step") == 8 and not asked:
            asked.append(True)
            assert terminal.screen[-1].startswith("greedy 1/2  step 8/20")
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(speaking.Speaker, "hear", hear)
    assert main(["run", "small.toml", "--out", "cut"]) == 130
    screen = terminal.screen
    assert "stopping at the end of this chunk; once more to stop at once" in screen
    assert screen[-2].startswith("memoa: interrupted; not run: greedy")
    assert screen[-1] == ""
    assert not any("step " in row for row in screen)


def test_a_signal_within_a_write_waits_for_its_end(monkeypatch):
    speaker = speaking.Speaker(logging.INFO, machine=False, live=True)

    class Interrupted(Terminal):
        def write(self, text):
            if "step" in text:
                speaker.emit(logging.makeLogRecord({"msg": "stopping", "levelno": logging.INFO}))
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", stream := Interrupted())
    speaker.hear({"event": "progress", "step": 1, "steps": 2})
    assert stream.screen == ["stopping", ""]


@pytest.mark.parametrize(
    ("words", "environment", "lines"),
    [
        ([], {"TERM": "dumb"}, True),
        (["--log-level", "info"], {"TERM": "xterm"}, True),
        (["--log-level", "warning"], {"TERM": "xterm"}, False),
        (["--log-level", "quiet"], {"TERM": "xterm"}, False),
    ],
)
def test_levels_and_terminals_that_cannot(small, monkeypatch, words, environment, lines):
    terminal = on_terminal(monkeypatch)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["run", "small.toml", *words]) == 0
    written = terminal.getvalue()
    assert ("results in runs/small" in written) == lines
    assert ("\r" in written) == (lines and environment["TERM"] != "dumb")


def test_debug_tells_of_compilation_and_checkpoints(small, capsys):
    words = ["run", "small.toml", "--checkpoint-every", "0"]
    assert main([*words, "--log-level", "debug"]) == 0
    told = capsys.readouterr().err
    assert re.search(r"greedy: \d+\.\d s of compilation so far", told)
    assert "results in runs/small" in told
    before = logging.getLogger("memoa_jax")
    assert (before.handlers, before.level, before.propagate) == ([], logging.NOTSET, True)


def test_machines_get_events_on_stderr_and_one_document_on_stdout(small, monkeypatch, capsys):
    look_always(monkeypatch)
    words = ["run", "small.toml", "--format", "json", "--checkpoint-every", "0"]
    assert main(words) == 0
    found = capsys.readouterr()
    summary = json.loads(found.out)
    events = [json.loads(line, parse_constant=pytest.fail) for line in found.err.splitlines()]
    names = [one["event"] for one in events]
    assert (names[0], names[-1]) == ("start", "done")
    assert events[-1]["code"] == 0
    assert {"folder": "runs/small", "event": "saved"} in events
    assert [one["done"] for one in events if one.get("kept") == "greedy"] == [4, 8, 12, 16, 20]
    policies = {one["policy"]: one for one in events if one["event"] == "policy"}
    assert list(policies) == list(summary["policies"])
    for label, one in policies.items():
        assert one["metrics"]["server_rmse"] == summary["policies"][label]["server_rmse"]
    shown = [one for one in events if one["event"] == "progress" and one["policy"] == "greedy"]
    assert [one["step"] for one in shown] == [0, 4, 8, 12, 16, 20, 20]
    assert shown[-1]["remaining_seconds"] == 0
    assert shown[-1]["server_rmse"] == pytest.approx(
        summary["policies"]["greedy"]["server_rmse"], rel=1e-5
    )


def test_machines_are_told_of_errors_and_trouble_too(small, capsys):
    words = ["run", "small.toml", "--format", "json"]
    assert main([*words, "--set", "agents=0"]) == 2
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [one["event"] for one in events] == ["error", "done"]
    assert "agents" in events[0]["message"]
    assert events[1]["code"] == 2
    assert main([*words, "--log-level", "quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_trouble_is_an_event(here, capsys):
    config = """
    name = "lost"
    agents = 3
    [series]
    kind = "logistic"
    steps = 400
    [encoder]
    kind = "random_features"
    features = 2
    [[policy]]
    kind = "affine"
    own = [[-9.0], [-9.0]]
    """
    Path("lost.toml").write_text(config)
    main(["run", "lost.toml", "--format", "json"])
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (trouble,) = [one for one in events if one["event"] == "trouble"]
    assert trouble["policy"] == "affine"
    assert trouble["notes"]


def test_a_real_terminal_shows_progress(small):
    """The whole command line as people start it, with a terminal for stderr."""
    code = (
        "import sys, memoa_jax.progress as p, memoa_jax.speaking as s, memoa_jax.resident as r\n"
        "from memoa_jax import cli\n"
        "s.EVERY, p.SHARE, r.DEFAULT_CHUNK, r.LEAST_CHUNK = 0.0, 0, 4, 4\n"
        "sys.exit(cli.main(['run', 'small.toml', '--set', 'policy=[{kind=\"greedy\"}]']))"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "80"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, env=environment
    )
    os.close(theirs)
    written = b""
    try:
        while piece := os.read(ours, 4096):
            written += piece
    except OSError:  # Linux says so at the end of what a process wrote to its terminal
        pass
    finally:
        os.close(ours)
    assert process.wait(60) == 0
    assert b"greedy  step 8/20  " in written
    assert b"\x1b" not in written
    assert written.endswith(b"results in runs/small\r\n")
    assert b"greedy" in process.stdout.read()
    process.stdout.close()


@pytest.mark.parametrize(
    "kind", ["sweep", pytest.param("tune", marks=pytest.mark.slow), "study", "verify"]
)
def test_other_commands_tell_how_far_they_are(kind, here, monkeypatch, capsys):
    look_always(monkeypatch)
    base = '[series]\nkind = "logistic"\nsteps = 30\n[encoder]\nkind = "random_features"\n'
    base += 'features = 2\n[[policy]]\nkind = "decentralized"\ngame = "forecast"\n'
    more = {
        "sweep": '[sweep]\nmethod = "grid"\n[[sweep.axis]]\nkey = "encoder.noise"\n'
        "values = [0.0, 0.1]\n",
        "tune": '[tune]\nkeys = ["policy.ridge"]\nsteps = 2\n',
        "study": "",
        "verify": "",
    }
    top = "agents = 3\n" + ("seeds = 2\n" if kind == "study" else "")
    Path("some.toml").write_text(top + base + more[kind])
    command = ["run" if kind == "study" else kind, "some.toml"]
    holds = [Statement("reduction", "it holds", "1", "1", True)]
    monkeypatch.setitem(verify.PROGRAMME, "reduction", lambda: holds)
    words = ["verify", "--only", "reduction"] if kind == "verify" else command
    assert main([*words, "--format", "json"]) == 0
    found = capsys.readouterr()
    json.loads(found.out)
    events = [json.loads(line) for line in found.err.splitlines()]
    shown = [one for one in events if one["event"] == "progress"]
    assert all(line_of(one) for one in shown)
    if kind == "sweep":
        assert [one["call"] for one in shown] == [0, 1]
        assert shown[-1]["best"] > 0
        assert shown[-1]["remaining_seconds"] == 0
    elif kind == "tune":
        assert [one["step"] for one in shown] == [0, 1, 2]
        assert all(one["objective"] > 0 for one in shown)
        assert shown[-1]["remaining_seconds"] == 0
    elif kind == "study":
        assert {one["within"] for one in shown} == {
            f"logistic, random_features, seed {seed}" for seed in (0, 1)
        }
    else:
        assert [(one["name"], one["part"], one["parts"]) for one in shown] == [("reduction", 1, 1)]
        assert [one["failed"] for one in events if one["event"] == "part"] == [[]]
