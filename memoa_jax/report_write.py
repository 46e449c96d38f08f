"""The report of a folder: what stands on its page for each kind of results, and its files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memoa_jax import (
    report,
    report_run,
    robustness_table,
    study_report,
    sweep_report,
    tune_report,
)
from memoa_jax.figure_style import require
from memoa_jax.files import remove, replace
from memoa_jax.report_beside import scaling, verification
from memoa_jax.report_folder import (
    PAGE,
    ROBUSTNESS,
    SCALING,
    VERIFICATION,
    Folder,
    read,
    understood,
)
from memoa_jax.report_others import robustness, study, sweep, tuning
from memoa_jax.report_page import Section, file_name, page
from memoa_jax.verify import table as verified

_READERS: dict[str, Any] = {
    "run": report,
    "study": study_report,
    "sweep": sweep_report,
    "tune": tune_report,
    "robustness": robustness_table,
}
_PICTURES = {
    "run": report_run.pictures,
    "study": study,
    "sweep": sweep,
    "tune": tuning,
    "robustness": robustness,
}
_WORDS = {
    "run": "one run: its policies on the same series, features and draws",
    "study": "a study: several series, encoders or seeds",
    "sweep": "a sweep: a config at many points, ranked",
    "tune": "a tuning: numbers descended on, judged on held-out rows",
    "robustness": "what agents that differ lose where they plan as if they were alike",
    "verify": "a verification of the theory",
}
_OURS = re.compile(
    r"report-(comparison|(prediction|costs)(-\d+)?(-part-\d+)?|errors|mean-field|study-\d+"
    r"|robustness|sweep-(best|axis-\d+)|tune-(held-out|descent|numbers)|verify-[a-z-]+|scaling-(time|memory))"
    r"\.png"
)
"""The names of figures: those of an earlier report in the folder go."""


def write_report(
    path: Path,
    out: Path | None = None,
    verified_in: Path | None = None,
    scaled_in: Path | None = None,
) -> tuple[Path, list[str]]:
    """Draw the report of a folder of results; return its page, and the names of its figures.

    Args:
      path: the folder.
      out: an existing folder for the page and its figures; None: the same one.
      verified_in: a file of `memoa verify`, or its folder; None: what the folder holds.
      scaled_in: a file of `benchmarks/scaling.py`, likewise.

    Raises:
      ReportError: if the folder holds no results, or a damaged file.
      FigureError: if matplotlib is not installed.
      OSError: if a file cannot be written.
    """
    require()
    folder = read(path, verified_in, scaled_in)
    named = ROBUSTNESS if folder.kind == "robustness" else "summary.json"
    with understood(path / named, "memoa"):
        sections = list(_own(folder))
        title, subtitle, warnings = _heading(folder)
    for name, given, writer, make in (
        (VERIFICATION, verified_in, "memoa verify", _theory),
        (SCALING, scaled_in, "benchmarks/scaling.py", _speed),
    ):
        with understood(given or path / name, writer):
            sections.append(make(folder))
    sections += _papers(folder)
    drawn = [one for section in sections for one in section.pictures]
    out = path if out is None else out
    content = page(title, subtitle, warnings, sections).encode()
    names = [file_name(one) for one in drawn]
    for old in out.iterdir():
        if _OURS.fullmatch(old.name) and old.name not in names:
            remove(old)
    for one in drawn:
        replace(out / file_name(one), one.png)
    replace(out / PAGE, content)
    return out / PAGE, names


def _heading(folder: Folder) -> tuple[str, str, list[str]]:
    """Return the page's title, the line below it, and what must be known first."""
    summary = folder.summary
    if folder.kind == "verify":
        found = folder.verification or {}
        failed = [one["name"] for one in found["statements"] if one["holds"] is False]
        alarms = [f"DOES NOT HOLD: {'; '.join(failed)}."] if failed else []
        if found["interrupted"]:
            alarms.append(f"INTERRUPTED: not run: {', '.join(found['not_run'])}.")
        return "memoa verify", _WORDS["verify"], alarms
    if folder.kind == "robustness":
        sizes = f"{summary['agents']} agents in games, {summary['crowd']} online"
        line = f"{_WORDS['robustness']}; {sizes}, {len(summary['seeds'])} seeds"
        cut = [f"INTERRUPTED: not run: {', '.join(summary['not_run'])}."]
        return "memoa robustness", line, cut if summary["interrupted"] else []
    seeds = summary.get("seeds", [summary.get("seed")])
    facts = [f"{summary['agents']:,} agents"]
    if folder.kind == "run":
        facts.append(f"{summary['steps']:,} steps of {summary['series']}")
    facts.append(f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds")
    facts += [str(folder.manifest.get("dtype", "")), f"on {folder.manifest.get('device', '?')}"]
    return summary["name"], f"{_WORDS[folder.kind]}; {', '.join(facts)}", _alarms(folder)


def _alarms(folder: Folder) -> list[str]:
    """Return what a reader of the figures must know first."""
    summary, reader = folder.summary, _READERS[folder.kind]
    alarms = []
    if summary["interrupted"]:
        then = f" Go on with: memoa {folder.kind if folder.kind == 'tune' else 'run'} --resume."
        alarms.append(
            f"INTERRUPTED, these are partial results. Not there or not whole: "
            f"{', '.join(reader.left(summary))}.{then if folder.unfinished else ''}"
        )
    if reader.lost(summary):
        alarms.append("LOST: no policy kept a finite server output.")
    gone = list(_diverged(folder))
    if gone:
        alarms.append(f"DIVERGED: {'; '.join(gone)}.")
    return alarms


def _diverged(folder: Folder) -> Iterator[str]:
    summary = folder.summary
    if folder.kind == "run":
        for label, one in summary["policies"].items():
            if one["diverged_agents"]:
                yield f"{label}: {one['diverged_agents']:,} of {summary['agents']:,} agents"
    if folder.kind == "study":
        for name, series in summary["series"].items():
            for encoder, own in series["encoders"].items():
                for label, one in own["policies"].items():
                    if one["diverged_seeds"]:
                        seeds = f"{one['diverged_seeds']} of {len(one['seeds'])} seeds"
                        yield f"{name}, {encoder}, {label}: in {seeds}"
    if folder.kind == "sweep":
        for label, one in summary["policies"].items():
            if one["points_not_ranked"]:
                count = one["points_not_ranked"] + one["points_ranked"]
                yield f"{label}: at {one['points_not_ranked']:,} of {count:,} points, not ranked"


def _own(folder: Folder) -> Iterator[Section]:
    """Yield what the folder's own results have to show."""
    if folder.kind == "verify":
        return
    text = _READERS[folder.kind].table(folder.summary)
    yield Section("Summary", text=text)
    yield Section("Figures", pictures=list(_PICTURES[folder.kind](folder)))


def _theory(folder: Folder) -> Section:
    title = "Convergence and exploitability"
    if folder.verification is None:
        words = (
            "The theory was not checked here. memoa verify does so, in about two minutes; memoa "
            "report DIR --verification FILE shows on this page what it found."
        )
        return Section(title, [words])
    report = folder.verification
    found = {key: report[key] for key in ("memoa_jax", "jax", "device") if key in report}
    by = ", ".join(f"{key} {value}" for key, value in found.items())
    words = f"Statements of the theory, checked by memoa verify ({by}); not of this run alone."
    return Section(title, [words], verified(report), list(verification(report)))


def _speed(folder: Folder) -> Section:
    if folder.scaling is None:
        words = (
            "Scaling was not measured here. benchmarks/scaling.py of the project does so; memoa "
            "report DIR --scaling FILE shows on this page what it found."
        )
        return Section("Scaling", [words])
    words = "Measured by benchmarks/scaling.py, on the machine named below each figure."
    return Section("Scaling", [words], pictures=list(scaling(folder.scaling)))


def _papers(folder: Folder) -> Iterator[Section]:
    """Yield what is needed to run it again: the config, and the manifest."""
    if folder.kind in ("verify", "robustness"):
        return
    yield Section("Config", ["Resolved: every key, given or default."], folder.config)
    facts = {k: v for k, v in folder.manifest.items() if k not in ("sha256", "inputs")}
    hashes = {f"SHA-256 of {name}": value for name, value in folder.manifest["sha256"].items()}
    inputs = {f"input {k}": v for k, v in dict(folder.manifest.get("inputs", {})).items()}
    yield Section("Manifest", table={**facts, **inputs, **hashes})
