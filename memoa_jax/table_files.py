"""Files of columns: CSV and NPZ to float64 columns, each fault with its file, row and column.

Only the standard library and NumPy are used, so a file can be checked on a machine without JAX.
Rows count from 0 after the header, lines from 1. Nothing after the last row asked for is judged.
"""

from __future__ import annotations

import csv
import datetime
import difflib
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

LARGEST_CELL = 3.4e38
"""The largest size of a number in a file, that of float32: its square is one of float64."""

_MISSING_CELLS = ("", "nan", "na")
_GROUPED = re.compile(r"[+-]?\d+(?:[,.'\s]\d+)+")


class TableError(ValueError):
    """A fault of a file, in one line: file, row, column, value, what is allowed."""


class Column(NamedTuple):
    """One column of the file from its first row: `values` is NaN where missing."""

    label: str
    values: Values


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return `` (did you mean 'X'?)`` for the nearest known name, or nothing.

    Example:
      >>> suggestion("usd_clos", ["EUR_CLOSE", "USD_CLOSE"])
      " (did you mean 'USD_CLOSE'?)"
    """
    by_case = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), list(by_case), n=1)
    return f" (did you mean {by_case[near[0]]!r}?)" if near else ""


def read_columns(
    file: Path, names: Sequence[str], stop: int | None, dates: str | None = None
) -> dict[str, tuple[Column, ...]]:
    """Read the named columns of the rows before `stop`, and judge the order of the dates.

    Args:
      file: ends in ".csv" or ".npz".
      names: columns (CSV) or arrays (NPZ, one column per entry of the second axis).
      stop: the row after the last one that is read; None is all rows.
      dates: the column or array that must increase from row to row, or None.

    Raises:
      TableError: a fault of the file, one line.
    """
    if "\0" in str(file):
        raise TableError(f"{str(file)!r}: cannot be read: allowed is a name without NUL")
    read = _read_npz if file.suffix.lower() == ".npz" else _read_csv
    return read(file, names, stop, dates)


def _show(text: str) -> str:
    """Quote a cell for a message, shortened: a broken file may hold one huge cell."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _unknown_name(file: Path, what: str, name: str, known: Sequence[str]) -> TableError:
    listed = ", ".join(map(_show, known[:12])) + (", ..." if len(known) > 12 else "")
    return TableError(f"{file}: no {what} {name!r}{suggestion(name, known)}: allowed is {listed}")


def _unreadable(file: Path, fault: OSError) -> TableError:
    reason = fault.strerror or fault
    return TableError(f"{file}: cannot be read: {reason}: allowed is a file that can be read")


# --- CSV


def _read_csv(
    file: Path, names: Sequence[str], stop: int | None, dates: str | None
) -> dict[str, tuple[Column, ...]]:
    """Read the named columns of a CSV file."""
    cells: dict[str, list[float]] = {name: [] for name in names}
    order = _Order()
    try:
        # Bytes that are no UTF-8 pass here: they are refused where a header or a cell is read.
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            reader = csv.reader(stream, strict=True)
            header = _header(file, reader)
            places = {name: _place(file, header, name) for name in names}
            dated = None if dates is None else _place(file, header, dates)
            for where, line in _rows(file, reader, stop):
                if len(line) != len(header):
                    count = f"{len(line)} cells: allowed is {len(header)}, as the header"
                    raise TableError(f"{where} has {count}")
                for name, place in places.items():
                    cells[name].append(_number(f"{where}, column {name!r}", line[place]))
                if dated is not None:
                    order.judge(f"{where}, column {dates!r}", line[dated])
    except OSError as fault:
        raise _unreadable(file, fault) from fault
    return {name: (Column(name, np.array(cells[name])),) for name in names}


def _header(file: Path, reader: Any) -> list[str]:
    """Return the column names of the first line."""
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as fault:
        raise _not_csv(f"{file}: header", fault) from fault
    if not any(header):
        raise TableError(f"{file}: no header: allowed is a line of column names, then rows")
    # UTF-16 has NUL bytes and so has a workbook; the bytes of Latin-1 came through as surrogates.
    if any("\0" in name or re.search("[\ud800-\udfff]", name) for name in header):
        raise TableError(f"{file}: header is not UTF-8 text: allowed is a UTF-8 CSV file")
    return header


def _rows(file: Path, reader: Any, stop: int | None) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows before `stop`: in words where each stands, and its cells."""
    row, blank = 0, False
    while row != stop:
        where = f"{file}: row {row} (line {reader.line_num + 1})"
        try:
            line = next(reader, None)
        except csv.Error as fault:
            raise _not_csv(where, fault) from fault
        if line is None:
            return
        if line and blank:  # empty lines before further rows would shift the series
            raise TableError(f"{where} follows an empty line: allowed is no empty line")
        blank = not line
        if line:
            yield where, line
        row += 1


def _not_csv(where: str, fault: csv.Error) -> TableError:
    allowed = "quotes that close at the end of their cell"
    return TableError(f"{where} is not CSV ({fault}): allowed is {allowed}")


def _place(file: Path, header: Sequence[str], name: str) -> int:
    if name not in header:
        other = next((mark for mark in ";\t|" if mark in header[0]), None)
        if len(header) == 1 and other:
            cell = f"the header is one cell, {_show(header[0])}"
            allowed = f"commas between cells, not {other!r}"
            raise TableError(f"{file}: no column {name!r}: {cell}: allowed is {allowed}")
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
        # float() reads "1_000" and the digits of every script; in a data file that is damage
        value = float(text) if text.isascii() and "_" not in text else np.nan
    except ValueError:
        value = np.nan
    if abs(value) <= LARGEST_CELL:  # neither NaN nor an infinity is
        return value
    allowed = "a finite number, or empty or NaN where missing"
    if np.isfinite(value):
        allowed = f"a number up to {LARGEST_CELL:g} in size, or empty or NaN where missing"
    elif _GROUPED.fullmatch(text):
        allowed += " (1234.5: a decimal point, nothing between thousands)"
    raise TableError(f"{where}: {_show(text)}: allowed is {allowed}")


class _Order:
    """Judges dates row by row: numbers or ISO dates, each later than the one before."""

    def __init__(self) -> None:
        self._before: tuple[str, Any] | None = None
        self._shown = ""

    def judge(self, where: str, cell: str) -> None:
        """Raise unless a cell is a date of the same kind as the one before, and later."""
        text = cell.strip()
        moment = _moment(text)
        if moment is None:
            allowed = "a number, or an ISO date such as 2020-01-31 or 2020-01-31T12:00"
            raise TableError(f"{where}: {_show(text)}: allowed is {allowed}")
        if self._before is not None:
            kind, value = self._before
            if moment[0] != kind:
                allowed = f"{kind}, as {self._shown} in the row before"
                raise TableError(f"{where}: {_show(text)}: allowed is {allowed}")
            if not moment[1] > value:
                raise _not_later(where, _show(text), self._shown)
        self._before, self._shown = moment, _show(text)


def _not_later(where: str, value: str, before: str) -> TableError:
    fault = "stands twice" if value == before else f"follows {before}"
    return TableError(f"{where}: {value} {fault}: allowed is later than the row before")


def _moment(text: str) -> tuple[str, Any] | None:
    """Return the kind of a date and what to compare it by, or None if it is none."""
    if not text.isascii() or "_" in text:
        return None
    try:
        if re.fullmatch(r"[+-]?\d+", text):  # exact: float would make nanoseconds alike
            return "a number", int(text)
        number = float(text)
        return ("a number", number) if np.isfinite(number) else None
    except ValueError:
        pass
    try:
        month = re.fullmatch(r"\d{4}-\d{2}", text)
        date = datetime.datetime.fromisoformat(f"{text}-01" if month else text)
    except ValueError:
        return None
    return ("a date without a time zone" if date.tzinfo is None else "a date with one"), date


# --- NPZ


def _read_npz(
    file: Path, names: Sequence[str], stop: int | None, dates: str | None
) -> dict[str, tuple[Column, ...]]:
    """Read the named arrays, one column per entry of their second axis."""
    arrays = _members(file, [*names, *(() if dates is None else (dates,))])
    length = next((len(arrays[name]) for name in names if np.ndim(arrays[name])), None)
    if dates is not None:
        _judge_dates(file, dates, arrays[dates], length, stop)
    return {name: _array_columns(file, name, arrays[name], length, stop) for name in names}


def _members(file: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return the named members of an archive, whatever they are."""
    reading = "archive"
    try:
        with file.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's on files of Python 2
            stream.read(1)  # is_zipfile says no to a disk that fails
            if not zipfile.is_zipfile(file):
                raise TableError(f"{file}: not an NPZ archive: allowed is a file of numpy.savez")
            stream.seek(0)
            archive = np.load(stream, allow_pickle=False)
            members = {}
            for name in names:
                if name not in archive.files:
                    raise _unknown_name(file, "array", name, archive.files)
                reading = f"array {name!r}"
                members[name] = archive[name]
            return members
    except OSError as fault:
        raise _unreadable(file, fault) from fault
    except TableError:
        raise
    except Exception as fault:
        # Of a damaged member zipfile, its decompressors, NumPy and the parser of its header
        # raise whatever they come upon.
        allowed = "arrays of real numbers saved by numpy.savez"
        raise TableError(f"{file}: {reading} cannot be read: allowed is {allowed}") from fault


def _check_array(
    where: str, array: Any, kinds: str, axes: tuple[int, ...], length: int | None
) -> None:
    """Refuse what is no array of these kinds and numbers of axes, with `length` rows."""
    if not isinstance(array, np.ndarray):  # a member that is no .npy file comes as bytes
        raise TableError(f"{where} is no array: allowed is a file of numpy.savez")
    if array.dtype.kind not in kinds:
        allowed = "real numbers" + (" or datetime64" if "M" in kinds else "")
        raise TableError(f"{where} has dtype {array.dtype}: allowed is {allowed}")
    if array.ndim not in axes or array.size == 0:
        allowed = "[m] or [m, columns]" if 2 in axes else "[m]"
        raise TableError(f"{where} has shape {array.shape}: allowed is {allowed}")
    if len(array) != length:
        raise TableError(f"{where} has {len(array)} rows: allowed is {length}, as the others")


def _array_columns(
    file: Path, name: str, array: Any, length: int | None, stop: int | None
) -> tuple[Column, ...]:
    """Judge one array and split it into labelled columns."""
    where = f"{file}: array {name!r}"
    _check_array(where, array, "iuf", (1, 2), length)
    with np.errstate(over="ignore"):  # a longdouble too large for float64 is refused below
        values = array[:stop].astype(np.float64)
    excess = np.argwhere(np.abs(values) > LARGEST_CELL)
    if len(excess):
        place = tuple(map(int, excess[0]))
        finite = "finite number" if np.isinf(values[place]) else f"number up to {LARGEST_CELL:g}"
        allowed = f"a {finite}, or NaN where missing"
        column = f", column {place[1]}" if len(place) == 2 else ""
        raise TableError(f"{where}, row {place[0]}{column}: {values[place]}: allowed is {allowed}")
    if values.ndim == 1:
        return (Column(name, values),)
    return tuple(Column(f"{name}[{j}]", values[:, j]) for j in range(values.shape[1]))


def _judge_dates(file: Path, name: str, array: Any, length: int | None, stop: int | None) -> None:
    """Raise unless an array of dates increases from row to row."""
    where = f"{file}: array {name!r}"
    _check_array(where, array, "iufM", (1,), length)
    moments = array[:stop]
    missing = np.isnat(moments) if array.dtype.kind == "M" else ~np.isfinite(moments)
    if missing.any():
        row = int(np.argmax(missing))
        raise TableError(f"{where}, row {row}: {moments[row]}: allowed is a date in every row")
    late = np.flatnonzero(~(moments[1:] > moments[:-1]))
    if late.size:
        row = int(late[0]) + 1
        raise _not_later(f"{where}, row {row}", str(moments[row]), str(moments[row - 1]))
