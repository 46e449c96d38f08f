"""Tables: CSV and NPZ files to inputs and targets, with lags, row windows and units.

One pass: read the named columns up to the window's end (`memoa_jax.table_files`), judge and fill
missing cells, choose each column's units, cut the lagged windows. Only the standard library and
NumPy are used, so a file can be checked on a machine without JAX. Every fault of a file is a
`TableError` of one line: file, row, column, value, what is allowed. Rows count from 0 after the
header.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from memoa_jax.table_files import Column, Values, read_columns, suggestion
from memoa_jax.table_files import TableError as TableError

Lags = Sequence[int] | Mapping[str, Sequence[int]]
"""Lags of every input column, or of each by name; lag 1 at row t is the value of row t-1."""

SCALINGS = ("none", "window_max", "column_max", "minmax", "prefix")
MISSING = ("error", "forward_fill", "mask")
BEFORE = ("zero", "first")

LARGEST = 1e15
"""The largest size of a value in a run's units.

Beyond it the squared errors of 1e8 agent-steps no longer add up in float32, and a run would end
in infinities that no policy is to blame for.
"""


class Table(NamedTuple):
    """What a file becomes: `inputs` [n, k] without gaps, `targets` [n, d], NaN where missing.

    Columns stand in the order in which they were named, each with its lags in their order.
    """

    inputs: Values
    targets: Values


class _Window(NamedTuple):
    """The rows asked for of one file, and how its gaps are treated."""

    file: Path
    start: int
    stop: int
    missing: str
    before: str


def load_table(
    path: str | PathLike[str],
    *,
    targets: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    lags: Lags = (0,),
    rows: tuple[int, int] | None = None,
    scaling: str = "none",
    prefix: int | None = None,
    missing: str = "error",
    before: str = "zero",
    dates: str | None = None,
) -> Table:
    r"""Read named columns of a CSV or NPZ file as inputs (with lags) and targets.

    A row of the inputs depends on its own and earlier rows of the file only (but see
    `scaling`). Columns that are not named are ignored. O(rows read).

        inputs[t] = (column[start + t - lag] for column in inputs for lag in its lags)
        targets[t] = (column[start + t] for column in targets)

    Axes: n rows of the window, k inputs, d targets.

    Args:
      path: a ``.csv`` file (UTF-8, comma, one header line; missing cells are empty, NaN or
        NA) or a ``.npz`` file of equally long [m] or [m, columns] arrays.
      targets: columns (CSV) or arrays (NPZ). Required for CSV; "targets" for NPZ.
      inputs: the same for inputs; for CSV the targets' columns, "inputs" for NPZ.
      lags: one list for all inputs, or a mapping with a list for each input. Lags reach rows
        before the window where the file has them.
      rows: (start, stop), the stop row excluded; None is the whole file. What stands after
        the window is not read.
      scaling: "none"; "window_max", inputs over their maximum in the window and targets over
        theirs (two numbers); "column_max", each column over its own maximum; "minmax", each
        column to [0, 1] over the window; "prefix", each column by the mean and standard
        deviation (1 if zero) of the window's first `prefix` rows. Units from the window look
        ahead over all of it, those of "prefix" over its first `prefix` rows.
      prefix: number of rows, 2 or more, for scaling "prefix" only.
      missing: "error"; "forward_fill", the last known value; "mask", targets stay NaN while
        inputs are filled forward.
      before: a lag before the file's first row is 0 in scaled units ("zero") or the value of
        that first row ("first").
      dates: a column of dates or numbers that must be later in every row than in the row before,
        from the file's first row on. ISO dates or numbers; in an NPZ file datetime64 or numbers.
        How far apart they stand does not matter: a row is a step. None judges no order.

    Returns:
      `Table`: inputs [n, k] and targets [n, d], float64, at most `LARGEST` in size.

    Raises:
      TableError: a fault of the file, one line.
      ValueError: an argument out of range, naming it, its value and what is allowed.

    Source: own design; zeros before the file and "window_max" as in the FedMOE code.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = (Path(folder) / "a.csv").write_text("day,load\nMon,1\nTue,2\nWed,4\n")
      ...     load_table(Path(folder) / "a.csv", targets=["load"], lags=[0, 1]).inputs.tolist()
      [[1.0, 0.0], [2.0, 1.0], [4.0, 2.0]]
    """
    file = Path(os.path.expanduser(path))  # pathlib's raises on "~nobody"
    _check_options(rows, scaling, prefix, missing, before)
    target_names, input_names = _chosen_names(file, targets, inputs)
    lags_of = _lags_of(input_names, lags)
    names = tuple(dict.fromkeys(target_names + input_names))
    if not (dates is None or (isinstance(dates, str) and dates)):
        raise _allowed("dates", dates, "the name of a column, or None")
    columns = read_columns(file, names, None if rows is None else rows[1], dates)
    length = len(columns[names[0]][0].values)
    start, stop = (0, length) if rows is None else rows
    if length < max(stop, 2):
        raise TableError(f"{file}: {length} rows: allowed is at least {max(stop, 2)}")
    window = _Window(file, start, stop, missing, before)

    sources = [(column, lags_of[name]) for name in input_names for column in columns[name]]
    units = _units(window, [column for column, _ in sources], scaling, prefix)
    input_columns = [
        values
        for (column, its_lags), unit in zip(sources, units, strict=True)
        for values in _lagged(window, column, its_lags, unit)
    ]
    outputs = [column for name in target_names for column in columns[name]]
    units = _units(window, outputs, scaling, prefix)
    target_columns = [
        _target(window, column, unit) for column, unit in zip(outputs, units, strict=True)
    ]
    known = [~np.isnan(column.values[start + 1 : stop]) for column in outputs]
    if not np.logical_and.reduce(known).any():
        what = f"rows {start + 1} .. {stop - 1}: none has all its targets"
        raise TableError(f"{file}: {what}: allowed is at least one, to be scored")
    return Table(np.stack(input_columns, axis=1), np.stack(target_columns, axis=1))


def _allowed(field: str, value: object, allowed: str) -> ValueError:
    return ValueError(f"load_table.{field} = {value!r}: allowed is {allowed}")


def _whole(value: object, least: int) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and bool(value >= least)  # type: ignore[operator]


def _check_options(
    rows: tuple[int, int] | None, scaling: str, prefix: int | None, missing: str, before: str
) -> None:
    """Refuse options that no file could satisfy."""
    choices = {"scaling": SCALINGS, "missing": MISSING, "before": BEFORE}
    for field, value in (("scaling", scaling), ("missing", missing), ("before", before)):
        if value not in choices[field]:
            raise _allowed(field, value, " or ".join(map(repr, choices[field])))
    pair = isinstance(rows, tuple | list) and len(rows) == 2
    if rows is not None and not (pair and _whole(rows[0], 0) and _whole(rows[1], rows[0] + 2)):
        raise _allowed("rows", rows, "(start, stop) with 0 <= start and stop >= start + 2")
    if scaling == "prefix" and not _whole(prefix, 2):
        raise _allowed("prefix", prefix, "a number of rows >= 2 with scaling = 'prefix'")
    if scaling != "prefix" and prefix is not None:
        raise _allowed("prefix", prefix, f"None with scaling = {scaling!r}")


def _chosen_names(
    file: Path, targets: Sequence[str] | None, inputs: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return target and input names, defaults filled in for the file's kind."""
    kind = file.suffix.lower()
    if kind not in (".csv", ".npz"):
        raise TableError(f"{file}: file ending {file.suffix!r}: allowed is '.csv' or '.npz'")
    if targets is None:
        if kind == ".csv":
            raise _allowed("targets", targets, "one or more column names of the CSV file")
        targets = ("targets",)
    if inputs is None:
        inputs = targets if kind == ".csv" else ("inputs",)
    for field, names in (("targets", targets), ("inputs", inputs)):
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise _allowed(field, names, "a list of names")
        if not names or len(set(names)) < len(names):
            raise _allowed(field, list(names), "one or more different names")
    return tuple(targets), tuple(inputs)


def _lags_of(input_names: Sequence[str], lags: Lags) -> dict[str, tuple[int, ...]]:
    """Return each input's lags, checked."""
    if isinstance(lags, Mapping):
        unknown = [name for name in lags if name not in input_names]
        absent = [name for name in input_names if name not in lags]
        if unknown:
            hint = suggestion(unknown[0], input_names)
            raise _allowed("lags", unknown[0], f"the name of an input{hint}")
        if absent:
            raise _allowed("lags", dict(lags), f"a list for every input, {absent[0]!r} too")
        by_name = {name: lags[name] for name in input_names}
    else:
        by_name = dict.fromkeys(input_names, lags)
    for one in by_name.values():
        if not (isinstance(one, Sequence) and one and all(_whole(lag, 0) for lag in one)):
            raise _allowed("lags", one, "one or more whole numbers >= 0")
        if len(set(one)) < len(one):
            raise _allowed("lags", one, "each lag once")
    return {name: tuple(int(lag) for lag in one) for name, one in by_name.items()}


def _units(
    window: _Window, columns: Sequence[Column], scaling: str, prefix: int | None
) -> list[tuple[float, float]]:
    """Return each column's (offset, scale); a scaled value is (value - offset) / scale."""
    if scaling == "none":
        return [(0.0, 1.0)] * len(columns)
    length = window.stop - window.start
    if prefix is not None and prefix > length:
        raise _allowed("prefix", prefix, f"2 .. {length}, the rows of the window")
    judged = slice(window.start, window.start + (prefix or length))
    known = [column.values[judged] for column in columns]
    known = [values[~np.isnan(values)] for values in known]
    for column, values in zip(columns, known, strict=True):
        if not values.size:
            where = f"rows {judged.start} .. {judged.stop - 1}, column {column.label!r}"
            raise TableError(f"{window.file}: {where}: no value: allowed is at least one for units")
    if scaling == "prefix":
        # a constant's standard deviation is rounding, not always zero: ask its range
        # (and that of a range below 1e-160 underflows to 0)
        return [(float(v.mean()), (float(v.std()) if np.ptp(v) else 0.0) or 1.0) for v in known]
    if scaling == "minmax":
        return [(float(v.min()), float(np.ptp(v)) or 1.0) for v in known]
    tops = [float(v.max()) for v in known]
    if scaling == "window_max":
        tops = [max(tops)] * len(columns)
    for column, top in zip(columns, tops, strict=True):
        if not top > 0:
            raise TableError(
                f"{window.file}: column {column.label!r} has maximum {top} in the window: "
                f"allowed is a maximum > 0 with scaling = {scaling!r}"
            )
    return [(0.0, top) for top in tops]


def _carried(values: Values) -> Values:
    """Fill each gap with the last known value; NaN stays before the first one."""
    last = np.maximum.accumulate(np.where(np.isnan(values), -1, np.arange(len(values))))
    return np.where(last < 0, np.nan, values[last])


def _refuse_gaps(window: _Window, column: Column, values: Values, start: int) -> None:
    """Raise on the first NaN of `values`, whose first row is the file's row `start`."""
    gaps = np.flatnonzero(np.isnan(values))
    if gaps.size:
        named = f"column {column.label!r}"
        if np.isnan(column.values).all():
            rows = f"rows 0 .. {len(column.values) - 1}"
            raise TableError(f"{window.file}: {rows}, {named}: no value: allowed is at least one")
        where = f"{window.file}: row {start + int(gaps[0])}, {named}: missing"
        if window.missing == "error":
            allowed = "a finite number, or missing = 'forward_fill' or 'mask'"
            raise TableError(f"{where}: allowed is {allowed}")
        raise TableError(f"{where}, no value to start from: allowed is a window starting later")


def _in_units(
    window: _Window, column: Column, values: Values, start: int, unit: tuple[float, float]
) -> Values:
    """Return `values`, whose first row is the file's row `start`, in the run's units.

    Raises:
      TableError: on the first value that a run cannot carry.
    """
    with np.errstate(over="ignore"):  # refused below
        scaled = (values - unit[0]) / unit[1]
    large = np.flatnonzero(np.abs(scaled) > LARGEST)
    if large.size:
        row = int(large[0])
        where = f"{window.file}: row {start + row}, column {column.label!r}: {values[row]:g}"
        units = "" if unit == (0.0, 1.0) else f" ({scaled[row]:g} in the run's units)"
        allowed = f"up to {LARGEST:g} in size; rescale the column, or choose another scaling"
        raise TableError(f"{where}{units}: allowed is {allowed}")
    return scaled


def _target(window: _Window, column: Column, unit: tuple[float, float]) -> Values:
    """Return a target's rows in the window, gaps treated, in the run's units."""
    filled = window.missing == "forward_fill"
    values = _carried(column.values) if filled else column.values
    inside = values[window.start : window.stop]
    # Under "mask" gaps stay, but the online loop starts from a known first target.
    judged = inside[:1] if window.missing == "mask" else inside
    _refuse_gaps(window, column, judged, window.start)
    return _in_units(window, column, inside, window.start, unit)


def _lagged(
    window: _Window, column: Column, lags: Sequence[int], unit: tuple[float, float]
) -> list[Values]:
    """Return a column's values at each lag, in the run's units.

    They depend on no row after their own.
    """
    start, stop = window.start, window.stop
    lags = [min(lag, stop) for lag in lags]  # further back is as far before the file
    values = column.values if window.missing == "error" else _carried(column.values)
    first = max(start - max(lags), 0)
    last = max(stop - min(lags), first + 1)
    _refuse_gaps(window, column, values[first:last], first)
    used = _in_units(window, column, values[first:last], first, unit)
    # A lag reaches before the file only if row 0 was among the rows judged above.
    pad = 0.0 if window.before == "zero" else used[0]
    padded = np.concatenate([np.full(max(lags) + first, pad), used])
    return [padded[start + max(lags) - lag : stop + max(lags) - lag] for lag in lags]
