"""Tables: CSV and NPZ files to inputs and targets, with lags, row windows and units.

One pass: read the named columns up to the window's end, judge and fill missing cells, choose
each column's units, cut the lagged windows. Only the standard library and NumPy are used, so
a file can be checked on a machine without JAX. Every fault of a file is a `TableError` of one
line: file, row, column, value, what is allowed. Rows count from 0 after the header.
"""

from __future__ import annotations

import csv
import difflib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Lags = Sequence[int] | Mapping[str, Sequence[int]]
"""Lags of every input column, or of each by name; lag 1 at row t is the value of row t-1."""

SCALINGS = ("none", "window_max", "column_max", "minmax", "prefix")
MISSING = ("error", "forward_fill", "mask")
BEFORE = ("zero", "first")
_MISSING_CELLS = ("", "nan", "na")


class TableError(ValueError):
    """A fault of a file, in one line: file, row, column, value, what is allowed."""


class Table(NamedTuple):
    """What a file becomes: `inputs` [n, k] without gaps, `targets` [n, d], NaN where missing.

    Columns stand in the order in which they were named, each with its lags in their order.
    """

    inputs: Values
    targets: Values


class _Column(NamedTuple):
    """One column of the file from its first row: `values` is NaN where missing."""

    label: str
    values: Values


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
) -> Table:
    r"""Read named columns of a CSV or NPZ file as inputs (with lags) and targets.

    A row of the inputs depends on its own and earlier rows of the file only (but see
    `scaling`). Other columns, such as dates, are ignored. O(rows read).

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

    Returns:
      `Table`: inputs [n, k] and targets [n, d], float64.

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
    file = Path(path).expanduser()
    _check_options(rows, scaling, prefix, missing, before)
    target_names, input_names = _chosen_names(file, targets, inputs)
    lags_of = _lags_of(input_names, lags)
    names = tuple(dict.fromkeys(target_names + input_names))
    read = _read_npz if file.suffix.lower() == ".npz" else _read_csv
    columns = read(file, names, None if rows is None else rows[1])
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
        (_target(window, column) - offset) / scale
        for column, (offset, scale) in zip(outputs, units, strict=True)
    ]
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
            hint = _suggestion(unknown[0], input_names)
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


def _suggestion(name: str, known: Sequence[str]) -> str:
    """Return `` (did you mean 'X'?)`` for the nearest known name, or nothing."""
    by_case = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), list(by_case), n=1)
    return f" (did you mean {by_case[near[0]]!r}?)" if near else ""


def _show(text: str) -> str:
    """Quote a cell for a message, shortened: a broken file may hold one huge cell."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _unknown_name(file: Path, what: str, name: str, known: Sequence[str]) -> TableError:
    listed = ", ".join(map(_show, known[:12])) + (", ..." if len(known) > 12 else "")
    return TableError(f"{file}: no {what} {name!r}{_suggestion(name, known)}: allowed is {listed}")


def _read_csv(file: Path, names: Sequence[str], stop: int | None) -> dict[str, tuple[_Column, ...]]:
    """Read the named columns of the rows before `stop` (all rows if None)."""
    cells: dict[str, list[float]] = {name: [] for name in names}
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if not any(header):
                raise TableError(f"{file}: no header: allowed is a line of column names, then rows")
            places = {name: _place(file, header, name) for name in names}
            blank = False
            for row, line in enumerate(reader):
                if row == stop:
                    break
                if not line:  # allowed at the end; before further rows it would shift the series
                    blank = True
                    continue
                where = f"{file}: row {row} (line {reader.line_num})"
                if blank:
                    raise TableError(f"{where} follows an empty line: allowed is no empty line")
                if len(line) != len(header):
                    count = f"{len(line)} cells: allowed is {len(header)}, as the header"
                    raise TableError(f"{where} has {count}")
                for name, place in places.items():
                    cells[name].append(_number(f"{where}, column {name!r}", line[place]))
    except OSError as fault:
        raise TableError(f"{file}: cannot be read: {fault.strerror or fault}") from fault
    except UnicodeDecodeError as fault:
        raise TableError(f"{file}: not UTF-8 text: allowed is a UTF-8 CSV file") from fault
    except csv.Error as fault:
        raise TableError(f"{file}: line {reader.line_num} is not CSV: {fault}") from fault
    return {name: (_Column(name, np.array(cells[name])),) for name in names}


def _place(file: Path, header: Sequence[str], name: str) -> int:
    if name not in header:
        raise _unknown_name(file, "column", name, header)
    if header.count(name) > 1:
        raise TableError(f"{file}: column {name!r} stands in the header twice: allowed is once")
    return header.index(name)


def _number(where: str, cell: str) -> float:
    """Return a cell's finite number, NaN if it is missing."""
    text = cell.strip()
    if text.lower() in _MISSING_CELLS:
        return np.nan
    try:
        # float() reads "1_000" too; in a data file that is a damaged cell
        value = np.nan if "_" in text else float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        allowed = "a finite number, or empty or NaN where missing"
        raise TableError(f"{where}: {_show(text)}: allowed is {allowed}")
    return value


def _read_npz(file: Path, names: Sequence[str], stop: int | None) -> dict[str, tuple[_Column, ...]]:
    """Read the named arrays, one column per entry of their second axis."""
    columns: dict[str, tuple[_Column, ...]] = {}
    length: int | None = None
    reading = "archive"
    try:
        with file.open("rb") as stream:
            if not zipfile.is_zipfile(file):
                raise TableError(f"{file}: not an NPZ archive: allowed is a file of numpy.savez")
            archive = np.load(stream, allow_pickle=False)
            for name in names:
                if name not in archive.files:
                    raise _unknown_name(file, "array", name, archive.files)
                reading = f"array {name!r}"
                array = archive[name]
                length = len(array) if array.ndim and length is None else length
                columns[name] = _array_columns(file, name, array, length, stop)
    except OSError as fault:
        raise TableError(f"{file}: cannot be read: {fault.strerror or fault}") from fault
    except TableError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as fault:
        # a checksum, an encrypted member, pickled objects: none is an array of numbers
        allowed = "arrays of real numbers saved by numpy.savez"
        raise TableError(f"{file}: {reading} cannot be read: allowed is {allowed}") from fault
    return columns


def _array_columns(
    file: Path, name: str, array: NDArray[np.generic], length: int | None, stop: int | None
) -> tuple[_Column, ...]:
    """Judge one array and split it into labelled columns."""
    where = f"{file}: array {name!r}"
    if array.dtype.kind not in "iuf":
        raise TableError(f"{where} has dtype {array.dtype}: allowed is real numbers")
    if array.ndim not in (1, 2) or array.size == 0:
        raise TableError(f"{where} has shape {array.shape}: allowed is [m] or [m, columns]")
    if len(array) != length:
        raise TableError(f"{where} has {len(array)} rows: allowed is {length}, as the others")
    values = array[:stop].astype(np.float64)
    if np.isinf(values).any():
        place = tuple(int(i) for i in np.argwhere(np.isinf(values))[0])
        allowed = "a finite number, or NaN where missing"
        column = f", column {place[1]}" if len(place) == 2 else ""
        raise TableError(f"{where}, row {place[0]}{column}: {values[place]}: allowed is {allowed}")
    if values.ndim == 1:
        return (_Column(name, values),)
    return tuple(_Column(f"{name}[{j}]", values[:, j]) for j in range(values.shape[1]))


def _units(
    window: _Window, columns: Sequence[_Column], scaling: str, prefix: int | None
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
        return [(float(v.mean()), float(v.std()) if np.ptp(v) else 1.0) for v in known]
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


def _refuse_gaps(window: _Window, column: _Column, values: Values, start: int) -> None:
    """Raise on the first NaN of `values`, whose first row is the file's row `start`."""
    gaps = np.flatnonzero(np.isnan(values))
    if gaps.size:
        where = f"{window.file}: row {start + int(gaps[0])}, column {column.label!r}"
        if window.missing == "error":
            allowed = "a finite number, or missing = 'forward_fill' or 'mask'"
            raise TableError(f"{where}: missing: allowed is {allowed}")
        raise TableError(f"{where}: missing, nothing earlier: allowed is a window starting later")


def _target(window: _Window, column: _Column) -> Values:
    """Return a target's rows in the window, gaps treated."""
    filled = window.missing == "forward_fill"
    values = _carried(column.values) if filled else column.values
    inside = values[window.start : window.stop]
    # Under "mask" gaps stay, but the online loop starts from a known first target.
    judged = inside[:1] if window.missing == "mask" else inside
    _refuse_gaps(window, column, judged, window.start)
    return inside


def _lagged(
    window: _Window, column: _Column, lags: Sequence[int], unit: tuple[float, float]
) -> list[Values]:
    """Return a column's scaled values at each lag; they depend on no row after their own."""
    start, stop = window.start, window.stop
    values = column.values if window.missing == "error" else _carried(column.values)
    first = max(start - max(lags), 0)
    used = values[first : max(stop - min(lags), first + 1)]
    _refuse_gaps(window, column, used, first)
    scaled = (values - unit[0]) / unit[1]
    # A lag reaches before the file only if row 0 was among the rows judged above.
    pad = 0.0 if window.before == "zero" else scaled[0]
    padded = np.concatenate([np.full(max(lags), pad), scaled])
    return [padded[start + max(lags) - lag : stop + max(lags) - lag] for lag in lags]
