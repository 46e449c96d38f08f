"""The command `memoa report`, and the report that `memoa run --plot` leaves."""

from __future__ import annotations

import argparse
from pathlib import Path

from memoa_jax.console import FAILED, OK, WRONG, fail, prepare, tell, warn
from memoa_jax.figure_style import FigureError, require
from memoa_jax.files import LockedError, only_writer
from memoa_jax.report_folder import PAGE, ReportError


def report_folder(parsed: argparse.Namespace) -> int:
    """Draw the report of a folder, and print where its page is."""
    fault = missing()
    if fault is None and parsed.out is not None:
        fault = prepare(parsed.out)
    if fault:
        return fail(WRONG, fault)
    out = parsed.out or parsed.folder
    from memoa_jax.report_write import write_report

    try:
        if not parsed.folder.is_dir():  # nothing to hold; the reader says what is wrong
            write_report(parsed.folder)
        with only_writer(out):
            page, figures = write_report(parsed.folder, out, parsed.verification, parsed.scaling)
    except LockedError as error:
        return fail(WRONG, f"{error}")
    except (ReportError, FigureError) as error:
        return fail(WRONG, str(error))
    except OSError as error:
        return fail(FAILED, f"{out}: the report cannot be written ({error.strerror})")
    print(page)
    tell(f"{len(figures)} figures beside it, report-*.png")
    return OK


def missing() -> str | None:
    """Return what is not installed for a report, in a line."""
    try:
        require()
    except FigureError as error:
        return str(error)
    return None


def after_run(folder: Path, *, plot: bool) -> None:
    """Draw the report of a run that has just ended; or say that the one there is of another."""
    if not plot:
        if (folder / PAGE).exists():
            warn(f"{folder / PAGE} is of an earlier run: memoa report {folder} draws it again")
        return
    from memoa_jax.report_write import write_report

    try:
        page, _ = write_report(folder)
    except (ReportError, FigureError, OSError) as error:
        tell(f"no report: {error}")
    else:
        tell(f"report in {page}")
