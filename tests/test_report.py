"""`memoa report`: one page that needs nothing else, its figures, and what it refuses."""

import csv
import hashlib
import io
import itertools
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import report_folders as made
from helpers import told

from memoa_jax import report_costs, report_run, series
from memoa_jax.cli import main
from memoa_jax.figure_style import picture
from memoa_jax.report_folder import KINDS, ReportError, read
from memoa_jax.report_numbers import bars, scored, spread, squared, stretches, units, window
from memoa_jax.report_page import Section, page
from memoa_jax.report_write import write_report


class Page(HTMLParser):
    """Collects what a page would load or run, its elements and its words."""

    VOID = frozenset({"meta", "link", "img", "br", "hr"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words, self.named = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.named += [value for key, value in attrs if key == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def opened(path):
    """Parse a page, and hold it against what every page must be."""
    text = path.read_text()
    found = Page(text)
    assert not found.open
    assert len(set(found.named)) == len(found.named)
    kinds = {tag for tag, _ in found.tags}
    assert not kinds & {"script", "iframe", "object", "embed", "base", "form", "video", "audio"}
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            if name in attributes:
                assert attributes[name].startswith("#" if tag == "a" else "data:")
        if tag == "a":
            assert attributes["href"][1:] in found.named
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in re.sub(r'"data:[^"]*"', "", text).replace("http-equiv", "")
    policy = [a["content"] for t, a in found.tags if a.get("http-equiv")]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    pictures = [attributes for tag, attributes in found.tags if tag == "img"]
    for attributes in pictures:
        assert len(attributes["alt"]) > 40
        assert int(attributes["width"]) > 300 < int(attributes["height"])
    assert kinds >= {"header", "main", "section", "h1", "h2", "title"}
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert 'name="viewport"' in text
    return found, pictures


def test_a_run_has_its_table_its_figures_and_its_papers(tmp_path):
    folder = made.plain_run(tmp_path / "run")
    path, names = write_report(folder)
    found, pictures = opened(path)
    wanted = ("comparison", "prediction", "errors", "mean-field", "costs")
    assert names == [f"report-{name}.png" for name in wanted]
    assert len(pictures) == 5
    for name in names:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert name in found.text
    for words in (
        "persistence",
        "made: 40 agents, 89 steps of logistic",
        'kind = "logistic"',
        "memoa_jax 0.1.0",
        "The band is of the whole population, 40 agents.",
        "No agent diverged.",
        hashlib.sha256((folder / "trajectories.npz").read_bytes()).hexdigest(),
        "memoa verify does so",
    ):
        assert words in found.text
    assert "INTERRUPTED" not in found.text


def test_the_same_folder_gives_the_same_bytes(tmp_path):
    folder = made.plain_run(tmp_path / "run")
    first = write_report(folder)[0].read_bytes()
    (tmp_path / "out").mkdir()
    assert write_report(folder, tmp_path / "out")[0].read_bytes() == first
    assert str(tmp_path).encode() not in first


def test_figures_of_an_earlier_report_go_and_other_files_stay(tmp_path):
    folder = made.plain_run(tmp_path / "run")
    for name in ("report-costs-part-2.png", "report-mine.png", "history.png"):
        (folder / name).write_bytes(b"old")
    write_report(folder)
    assert not (folder / "report-costs-part-2.png").exists()
    assert (folder / "report-mine.png").exists()
    assert (folder / "history.png").exists()


def test_partial_runs_are_marked(tmp_path):
    targets, predictions = made.lives(0)
    cut = made.finished("cut", targets, predictions[:50])
    two = [made.finished("whole", targets, predictions), cut]
    folder = made.write_run(tmp_path / "run", two, targets, partial={"cut": 50}, not_run=["never"])
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "identity.json").write_text("{}")
    found, _ = opened(write_report(folder)[0])
    assert (
        "INTERRUPTED, these are partial results. Not there or not whole: cut, never" in found.text
    )
    assert "Go on with: memoa run --resume" in found.text
    assert "INTERRUPTED: cut: 50 of 90 rows only" in found.text


def test_diverged_agents_are_marked_and_never_hidden(tmp_path, capsys):
    folder = made.wild_run(tmp_path / "run")
    found, pictures = opened(write_report(folder)[0])
    assert "DIVERGED: wild: 3 of 40 agents." in found.text
    assert "wild 3 (of them without a finite cost, and in no bar: 2)" in found.text
    assert "Of wild, up to 2 of them have no finite prediction from row 30 on" in found.text
    assert "The line of wild breaks off where it is not finite." in found.text
    assert len(pictures) == 5


def test_names_are_words_and_never_markup(tmp_path):
    folder = made.plain_run(tmp_path / "run", name='<script>alert(1)</script> & $x^2$ "q"')
    found, _ = opened(write_report(folder)[0])
    assert "<script>alert(1)</script> & $x^2$" in found.text
    text = page("t", "s", ["<b>"], [Section("<i>", ["<u>"], "<pre>", table={"<k>": "<v>"})])
    assert not re.search(r"<(b|i|u|k|v)>", text)


def test_many_policies_and_outputs_are_cut_into_figures(tmp_path):
    targets, predictions = made.lives(3, outputs=2)
    many = [made.finished(f"p{number}", targets, predictions) for number in range(7)]
    _, names = write_report(made.write_run(tmp_path / "run", many, targets))
    for name in ("prediction-1", "prediction-2-part-2", "costs", "costs-part-2"):
        assert f"report-{name}.png" in names


def test_a_run_without_band_and_costs_says_so(tmp_path):
    targets, predictions = made.lives(0)
    old = made.finished("old", targets, predictions)
    for name in list(old.trajectories):
        if name.startswith(("band", "costs")):
            del old.trajectories[name]
    path, names = write_report(made.write_run(tmp_path / "run", [old], targets))
    assert "kept no band of agents" in opened(path)[0].text
    assert "report-costs.png" not in names


def test_a_study_shows_what_there_is(tmp_path):
    path, names = write_report(made.write_study(tmp_path / "study"))
    found, _ = opened(path)
    assert names == ["report-study-1.png", "report-study-2.png"]
    for words in ("Agents diverged in: wild", "Not all seeds were run of: wild", "persistence"):
        assert words in found.text
    assert "INTERRUPTED" in found.text
    assert "DIVERGED: a, echo_state, wild: in 1 of 1 seeds" in found.text


def test_verification_and_scaling_are_found_or_named(tmp_path, here, capsys):
    folder = made.plain_run(tmp_path / "run")
    verified = tmp_path / "verified"
    verified.mkdir()
    made.write_json(verified / "verification.json", made.VERIFICATION)
    scaled = made.write_json(tmp_path / "elsewhere.json", made.SCALING)
    words = ["report", str(folder), "--verification", str(verified), "--scaling", str(scaled)]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    found, pictures = opened(folder / "report.html")
    assert len(pictures) == 9
    for words in ("DOES NOT HOLD: exploitability.", "a <processor>, 2 x cpu", "falls like 1/N"):
        assert words in found.text
    made.write_json(folder / "verification.json", made.VERIFICATION)
    made.write_json(folder / "scaling.json", made.SCALING)
    assert len(opened(write_report(folder)[0])[1]) == 9
    alone, pictures = opened(write_report(verified)[0])
    assert len(pictures) == 2
    assert "INTERRUPTED: not run: regret." in alone.text


def refused(capsys, *words):
    """Return the one line with which the command refuses."""
    assert main(["report", *map(str, words)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("memoa: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("name", ["summary.json", "trajectories.npz", "config.toml"])
@pytest.mark.parametrize("how", ["cut", "gone", "changed"])
def test_a_damaged_file_is_one_line_that_names_it(name, how, tmp_path, capsys):
    file = made.plain_run(tmp_path / "run") / name
    content = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2] if how == "cut" else content + b" ")
    assert name in refused(capsys, file.parent)
    assert not (file.parent / "report.html").exists()


def test_what_is_no_folder_of_results_is_refused(tmp_path, capsys):
    assert "no such folder" in refused(capsys, tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "is no folder" in refused(capsys, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "no summary.json" in refused(capsys, tmp_path / "empty")
    begun = tmp_path / "begun" / "checkpoint"
    begun.mkdir(parents=True)
    (begun / "identity.json").touch()
    assert "memoa run --resume" in refused(capsys, begun.parent)
    folder = made.plain_run(tmp_path / "run")
    assert "no such file" in refused(capsys, folder, "--scaling", tmp_path / "none.json")
    other = made.write_json(tmp_path / "other.json", {"a": 1})
    assert "holds no statements" in refused(capsys, folder, "--verification", other)
    (tmp_path / "bad.json").write_text("{")
    assert "not JSON" in refused(capsys, folder, "--scaling", tmp_path / "bad.json")
    wrong = made.write_json(tmp_path / "wrong.json", {"rows": [{"policy": "greedy"}]})
    assert "wrong.json: not as this version" in refused(capsys, folder, "--scaling", wrong)


def resealed(folder, **summary):
    """Change a summary as its writer could have, hash and all."""
    path = folder / "summary.json"
    text = json.dumps({**json.loads(path.read_text()), **summary})
    path.write_text(text)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["summary.json"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_summary_of_another_make_is_one_line(tmp_path, capsys):
    folder = resealed(made.plain_run(tmp_path / "run"), policies={"calm": {}})
    assert "summary.json: not as this version of memoa writes it" in refused(capsys, folder)
    manifest = folder / "manifest.json"
    for content in ("[]", "{", '{"sha256": []}', '{"sha256": {}}', "\xff"):
        manifest.write_text(content, encoding="latin-1")
        assert "manifest.json" in refused(capsys, folder)


def test_without_matplotlib_one_line_and_nothing_is_run(tmp_path, tiny, capsys, monkeypatch):
    folder = made.plain_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = "memoa: matplotlib is not installed: pip install 'memoa-jax[plot]'\n"
    assert refused(capsys, folder) == line
    assert main(["run", str(tiny), "--out", "out", "--plot"]) == 2
    assert capsys.readouterr().err == line
    assert not list(Path("out").iterdir())


def test_a_folder_that_another_process_writes_in_is_left_alone(tmp_path, capsys):
    from memoa_jax.files import only_writer

    folder = made.plain_run(tmp_path / "run")
    with only_writer(folder):
        assert "writes here" in refused(capsys, folder)
        assert main(["report", str(folder), "--out", str(tmp_path / "out")]) == 0


# Of what is drawn, against numpy on the same numbers.


@pytest.fixture
def drawn(monkeypatch):
    """Keep the figures that are drawn, by the first panel's title."""
    kept = []

    def keep(figure):
        kept.append(figure)
        return picture(figure)

    for module in (report_run, report_costs):
        monkeypatch.setattr(module, "picture", keep)
    return kept


def test_the_numbers_drawn_are_those_of_the_run(tmp_path, drawn):
    folder = read(made.plain_run(tmp_path / "run"))
    list(report_run.pictures(folder))
    targets, predictions = made.lives(0)
    _, prediction, errors, mean_field, costs = drawn

    calm = prediction.axes[1]
    last = slice(0, 90)  # all rows: there are fewer than the window holds
    shades = [one.get_paths()[0].vertices for one in calm.collections]
    for vertices, (low, high) in zip(shades, ((0.05, 0.95), (0.25, 0.75)), strict=True):
        for level, pick in ((low, np.min), (high, np.max)):
            own = np.quantile(predictions[last, :, 0].astype(float), level, axis=1)
            at = [pick(vertices[vertices[:, 0] == row, 1]) for row in range(90)]
            np.testing.assert_allclose(at, own, rtol=1e-5, atol=1e-6)
    lines = [line.get_ydata() for line in calm.get_lines()]
    np.testing.assert_allclose(lines[0], predictions.min(axis=1)[:, 0], rtol=1e-5)
    np.testing.assert_allclose(lines[1], predictions.max(axis=1)[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(lines[2], targets[:, 0])
    np.testing.assert_array_equal(lines[3], predictions.mean(axis=1)[:, 0])

    known = np.isfinite(targets[:, 0])
    known[0] = False
    mean = predictions.mean(axis=1)[:, 0]
    held = np.array(
        [targets[:row][known[:row] | (np.arange(row) == 0)][-1, 0] for row in range(1, 90)]
    )
    held = np.concatenate([targets[0], held])
    bounds = np.linspace(0, 90, 61).round().astype(int)
    for axes, lines in ((errors.axes[0], (0, 2)), (mean_field.axes[1], (0, 2))):
        for line, own in zip(lines, (mean, held), strict=True):
            for place, (first, stop) in enumerate(itertools.pairwise(bounds)):
                rows = np.arange(first, stop)[known[first:stop]]
                found = axes.get_lines()[line].get_ydata()[place]
                if len(rows):
                    expected = np.sqrt(np.mean((own[rows] - targets[rows, 0]) ** 2))
                    assert found == pytest.approx(expected, rel=1e-6)
                else:
                    assert np.isnan(found)

    (bar,) = [one for one in costs.axes[0].patches if hasattr(one, "get_data")]
    values, edges, _ = bar.get_data()
    each = np.nansum((predictions - targets[:, None]) ** 2, axis=(0, 2), dtype=float)
    each -= (predictions[0, :, 0].astype(float) - targets[0, 0]) ** 2
    each = (each / 89).astype(np.float32)
    np.testing.assert_array_equal(np.histogram(each, edges)[0], values)
    assert sum(values) == made.AGENTS
    worst = next(one for one in costs.axes[0].get_lines() if one.get_label() == "worst agent")
    assert worst.get_xdata()[0] == pytest.approx(each.max(), rel=1e-5)
    beside = next(one for one in costs.axes[0].get_lines() if one.get_label() == "persistence")
    assert beside.get_xdata()[0] == pytest.approx(0.25**2)


def test_the_comparison_shows_every_figure_and_persistence(tmp_path, drawn):
    folder = read(made.wild_run(tmp_path / "run"))
    report_run.comparison(folder)
    (axes,) = drawn[0].axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert lines["persistence"].get_xdata() == [0.25, 0.25]
    values = [folder.summary["policies"][name]["worst_agent_rmse"] for name in ("calm", "wild")]
    assert values[1] is None
    assert lines["worst agent"].get_xdata()[0] == values[0]
    assert [text.get_text() for text in axes.texts] == ["not finite"]


def test_stretches_hide_no_number_that_is_none():
    counted = np.ones(120, bool)
    values = np.arange(120.0)
    values[7] = np.inf
    rows, means = stretches(values, counted)
    assert len(rows) == 60
    assert np.isnan(means[3])
    np.testing.assert_array_equal(np.delete(means, 3), np.delete(values.reshape(60, 2).mean(1), 3))
    _, short = stretches(values[:50], counted)
    assert np.isnan(short[25:]).all()


def test_small_numbers():
    assert window({"a": 300, "b": 250}, 300) == (130, 250)
    edges, counts = bars(np.arange(101.0), np.ones(100, int), most=48)
    assert counts.sum() == 100
    assert len(counts) <= 48
    assert edges[-1] == 100
    config = '[series]\nkind = "logistic"\nscored_from = 3\n'
    assert scored(config, np.array([[1.0], [2.0], [3.0], [np.nan], [5.0]])).tolist() == [
        *(False, False, False, False, True)
    ]
    assert squared([[1.0, 3.0]], np.array([[0.0, 0.0], [9.0, 9.0]])).tolist() == [5.0]
    assert spread(np.arange(7.0)[None, :, None], [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]) == [4.0]


def test_units_are_those_of_the_series():
    """One unit and the offset, against the columns of the embedded files."""
    data = Path(series.__file__).parent / "data"
    for kind, file, name in (("co2", "mauna_loa_co2.csv", "co2"), ("sunspots", "sunspots.csv", "")):
        with (data / file).open() as stream:
            lines = [line for line in stream if not line.startswith("#")]
        read_rows = list(csv.DictReader(io.StringIO("".join(lines))))
        column = name or list(read_rows[0])[-1]
        raw = [float(row[column]) for row in read_rows if row[column]]
        targets = series.SERIES_KINDS[kind]().targets
        one, value = units(f'[series]\nkind = "{kind}"')
        unit = float(one.split()[0])
        offset = float(value.split("from ")[1].split()[0]) if "from" in value else 0.0
        assert np.nanmax(targets) * unit + offset == pytest.approx(max(raw))


# Of the commands themselves.


def test_a_run_with_plot_leaves_its_report(tiny, capsys):
    words = ["run", str(tiny), "--out", "out", "--set", "policy=[{kind='greedy'}]"]
    assert main([*words, "--plot", "--log-level", "info"]) == 0
    assert "report in out/report.html" in capsys.readouterr().err
    assert len(opened(Path("out/report.html"))[1]) == 5
    before = Path("out/trajectories.npz").read_bytes()
    assert main(words) == 0
    earlier = "out/report.html is of an earlier run: memoa report out draws it again"
    assert earlier in told(capsys)
    assert Path("out/trajectories.npz").read_bytes() == before


TUNE = """
agents = 4
[series]
kind = "logistic"
steps = 24
[encoder]
kind = "random_features"
features = 2
[[policy]]
kind = "greedy"
game = "forecast"
[tune]
keys = ["policy.cost.effort", "encoder.noise"]
steps = 2
"""


def test_a_sweep_has_a_report(grid):
    assert main(["sweep", str(grid), "--out", "swept"]) == 0
    found, pictures = opened(write_report(Path("swept"))[0])
    assert len(pictures) == 3  # the best points, and an axis each
    assert "The dashed line is persistence" in found.text


def test_a_tuning_has_a_report(here):
    Path("tune.toml").write_text(TUNE)
    assert main(["tune", "tune.toml", "--out", "tuned"]) == 0
    found, pictures = opened(write_report(Path("tuned"))[0])
    assert len(pictures) == 3
    assert "persistence" in found.text


def test_every_kind_of_summary_is_known_by_its_keys(tmp_path):
    assert read(made.plain_run(tmp_path / "a")).kind == "run"
    assert read(made.write_study(tmp_path / "b")).kind == "study"
    with pytest.raises(ReportError, match="not the summary"):
        read(of_nothing(tmp_path / "c"))
    assert set(KINDS) == {"run", "study", "sweep", "tune"}


def of_nothing(folder):
    made.plain_run(folder)
    path = folder / "summary.json"
    path.write_text("{}")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["summary.json"] = hashlib.sha256(b"{}").hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
