"""Kinds of dirty NPZ files: what is in them, how they are asked for, and what becomes of them."""

import io
import math
import zipfile

import numpy as np
from dirty_csv import COLUMN, DATED, EXPECTED, GAP, LATER, MASKED

ARRAYS = "allowed is arrays of real numbers saved by numpy.savez"


def saved(**arrays):
    """The bytes of an NPZ file."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def zipped(**members):
    """The bytes of a zip whose members need not be arrays."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def header(**changes):
    """The bytes of an array file whose header says what its values do not bear out."""
    facts = {"descr": "<f8", "fortran_order": False, "shape": (9,), **changes}
    text = repr(facts).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


FINE = np.arange(9.0)
REFUSED = {
    "no zip": (b"y\n1\n", {}, "not an NPZ archive: allowed is a file of numpy.savez"),
    "empty NPZ": (b"", {}, "not an NPZ archive: allowed is a file of numpy.savez"),
    "truncated": (
        saved(inputs=FINE, targets=FINE)[:-40],
        {},
        "not an NPZ archive: allowed is a file of numpy.savez",
    ),
    "damaged values": (
        saved(inputs=FINE, targets=FINE).replace(FINE.tobytes(), FINE[::-1].tobytes()),
        {},
        f"array 'targets' cannot be read: {ARRAYS}",
    ),
    "pickled objects": (
        saved(inputs=FINE, targets=np.array([1, None] + 7 * ["x"], dtype=object)),
        {},
        f"array 'targets' cannot be read: {ARRAYS}",
    ),
    "header that lies": (
        zipped(**{"inputs.npy": header() + FINE.tobytes(), "targets.npy": header(shape=(10**13,))}),
        {},
        f"array 'targets' cannot be read: {ARRAYS}",
    ),
    "header that is no Python": (
        zipped(**{"inputs.npy": header(shape="(9"), "targets.npy": header() + FINE.tobytes()}),
        {},
        f"array 'inputs' cannot be read: {ARRAYS}",
    ),
    "member that is no array": (
        zipped(inputs="1,2,3", targets="1,2,3"),
        {},
        "array 'targets' is no array: allowed is a file of numpy.savez",
    ),
    "no such array": (
        saved(inputs=FINE, target=FINE),
        {},
        "no array 'targets' (did you mean 'target'?): allowed is 'inputs', 'target'",
    ),
    "array of text": (
        saved(inputs=FINE, targets=FINE.astype(str)),
        {},
        "array 'targets' has dtype <U32: allowed is real numbers",
    ),
    "array of flags": (
        saved(inputs=FINE, targets=FINE > 4),
        {},
        "array 'targets' has dtype bool: allowed is real numbers",
    ),
    "complex array": (
        saved(inputs=FINE, targets=FINE * 1j),
        {},
        "array 'targets' has dtype complex128: allowed is real numbers",
    ),
    "array of three axes": (
        saved(inputs=FINE[:, None, None], targets=FINE),
        {},
        "array 'inputs' has shape (9, 1, 1): allowed is [m] or [m, columns]",
    ),
    "array without axes": (
        saved(inputs=FINE, targets=FINE[3]),
        {},
        "array 'targets' has shape (): allowed is [m] or [m, columns]",
    ),
    "array without rows": (
        saved(inputs=FINE, targets=FINE[:0]),
        {},
        "array 'targets' has shape (0,): allowed is [m] or [m, columns]",
    ),
    "arrays of two lengths": (
        saved(inputs=FINE, targets=FINE[:5]),
        {},
        "array 'inputs' has 9 rows: allowed is 5, as the others",
    ),
    "infinity in an array": (
        saved(inputs=np.array([[1, 2], [3, math.inf]]), targets=FINE[:2]),
        {},
        "array 'inputs', row 1, column 1: inf: allowed is a finite number, or NaN where missing",
    ),
    "array beyond float32": (
        saved(inputs=FINE[:2], targets=np.array([0, 1e39])),
        {},
        "array 'targets', row 1: 1e+39: allowed is a number up to 3.4e+38, or NaN where missing",
    ),
    "NaN in an array": (
        saved(inputs=np.array([[1, 2], [3, math.nan]]), targets=FINE[:2]),
        {},
        f"row 1, column 'inputs[1]': {GAP}",
    ),
    "array of dates descending": (
        saved(inputs=FINE[:2], targets=FINE[:2], day=np.array(["2020-02", "2020-01"], "M8[D]")),
        {"dates": "day"},
        f"array 'day', row 1: 2020-01-01 follows 2020-02-01: {LATER}",
    ),
    "array of dates with a gap": (
        saved(inputs=FINE[:2], targets=FINE[:2], day=np.array(["2020-02", "NaT"], "M8[D]")),
        {"dates": "day"},
        "array 'day', row 1: NaT: allowed is a date in every row",
    ),
}
"""What is refused, by name: content, keys of `[series]`, the message after the file's name."""

HANDLED = {
    "array of bytes": (
        saved(y=np.array(EXPECTED, "u1"), inputs=np.array(EXPECTED)),
        COLUMN,
        EXPECTED,
    ),
    "big-endian half precision, by columns": (
        saved(y=np.asfortranarray(np.array(EXPECTED, ">f2")[:, None])),
        {**COLUMN, "inputs": ["y"]},
        EXPECTED,
    ),
    "gap in an array, masked": (
        saved(y=np.array(MASKED)),
        {**COLUMN, "inputs": ["y"], "missing": "mask"},
        MASKED,
    ),
    "array of dates": (
        saved(y=np.array(EXPECTED), day=np.arange("2020-01", "2021-01", dtype="M8[M]")),
        {**DATED, "inputs": ["y"]},
        EXPECTED,
    ),
}
"""What is taken, by name: content, keys of `[series]`, the targets that it becomes."""
