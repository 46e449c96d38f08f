"""Kinds of dirty CSV files: what is in them, how they are asked for, and what becomes of them."""

import math

from memoa_jax.tables import LARGEST

CELL = "row 1 (line 3), column 'y'"
DAY = "row 1 (line 3), column 'day'"
WIDTH = "row 1 (line 3) has"
NUMBER = "allowed is a finite number, or empty or NaN where missing"
PLAIN = f"{NUMBER} (1234.5: a decimal point, nothing between thousands)"
SIZE = "allowed is a number up to 3.4e+38 in size, or empty or NaN where missing"
UNITS = "allowed is up to 1e+15 in size; rescale the column, or choose another scaling"
GAP = "missing: allowed is a finite number, or missing = 'forward_fill' or 'mask'"
DATE = "allowed is a number, or an ISO date such as 2020-01-31 or 2020-01-31T12:00"
LATER = "allowed is later than the row before"
QUOTES = "allowed is quotes that close at the end of their cell"
COLUMN = {"targets": ["y"]}
BOTH = {"targets": ["y"], "inputs": ["y", "x"]}
DATED = {**COLUMN, "dates": "day"}


REFUSED = {
    # cells
    "missing cell": ("y,x\n1,2\n,4\n5,6\n", COLUMN, f"row 1, column 'y': {GAP}"),
    "NaN cell": ("y,x\n1,2\nNaN,4\n5,6\n", COLUMN, f"row 1, column 'y': {GAP}"),
    "infinite cell": (
        "y,x\n1,2\n-inf,4\n",
        COLUMN,
        f"{CELL}: '-inf': {NUMBER}",
    ),
    "overflowing cell": ("y\n1\n1e999\n", COLUMN, f"{CELL}: '1e999': {NUMBER}"),
    "beyond float32": ("y\n1\n-4e38\n", COLUMN, f"{CELL}: '-4e38': {SIZE}"),
    "1e30": ("y\n1\n2\n1e30\n", COLUMN, f"row 2, column 'y': 1e+30: {UNITS}"),
    "1e30 as input": ("y,x\n1,2\n2,-1e30\n3,4\n", BOTH, f"row 1, column 'x': -1e+30: {UNITS}"),
    "1e30 after the prefix": (
        "y\n1\n2\n3\n1e30\n",
        {**COLUMN, "scaling": "prefix", "prefix": 2},
        f"row 3, column 'y': 1e+30 (2e+30 in the run's units): {UNITS}",
    ),
    "a lag far beyond the window's units": (
        "y\n1e30\n1\n2\n3\n",
        {**COLUMN, "lags": [0, 1], "rows": [1, 4], "scaling": "column_max"},
        f"row 0, column 'y': 1e+30 (3.33333e+29 in the run's units): {UNITS}",
    ),
    "text cell": ("y\n1\nhigh\n", COLUMN, f"{CELL}: 'high': {NUMBER}"),
    "spreadsheet error": ("y\n1\n#N/A\n", COLUMN, f"{CELL}: '#N/A': {NUMBER}"),
    "underscored number": ("y\n1\n1_0\n", COLUMN, f"{CELL}: '1_0': {NUMBER}"),
    "digits of another script": ("y\n1\n٢\n", COLUMN, f"{CELL}: '٢': {NUMBER}"),
    "decimal comma, quoted": (
        'y,x\n1,2\n"1,5",2\n',
        COLUMN,
        f"{CELL}: '1,5': {PLAIN}",
    ),
    "thousands separators": (
        'y,x\n1,2\n"1,234.5",2\n',
        COLUMN,
        f"{CELL}: '1,234.5': {PLAIN}",
    ),
    "NUL in a cell": ("y\n1\n2\0\n", COLUMN, f"{CELL}: '2\\x00': {NUMBER}"),
    "a tail of NULs": (
        "y,x\n1,2\n" + 99 * "\0",
        COLUMN,
        f"{WIDTH} 1 cells: allowed is 2, as the header",
    ),
    "Latin-1 in a cell that is read": (
        b"y\n1\n2\xb0\n",
        COLUMN,
        f"{CELL}: '2\\udcb0': {NUMBER}",
    ),
    # rows
    "short row": (
        "y,x\n1,2\n3\n",
        COLUMN,
        f"{WIDTH} 1 cells: allowed is 2, as the header",
    ),
    "long row": ("y\n1\n3,4\n", COLUMN, f"{WIDTH} 2 cells: allowed is 1, as the header"),
    "decimal comma, bare": (
        "y,x\n1,2\n1,5,2,5\n",
        COLUMN,
        f"{WIDTH} 4 cells: allowed is 2, as the header",
    ),
    "empty line inside": (
        "y\n1\n\n3\n",
        COLUMN,
        "row 2 (line 4) follows an empty line: allowed is no empty line",
    ),
    "quote never closed": (
        'y,x\n1,2\n3,"4\n5,6\n7,8\n',
        COLUMN,
        f"row 1 (line 3) is not CSV (unexpected end of data): {QUOTES}",
    ),
    "stray quote": (
        'y,x\n1,2\n3,"4"4\n',
        COLUMN,
        f"row 1 (line 3) is not CSV (',' expected after '\"'): {QUOTES}",
    ),
    "one row": ("y\n1\n", COLUMN, "1 rows: allowed is at least 2"),
    "fewer rows than asked for": (
        "y\n1\n2\n3\n",
        {**COLUMN, "rows": [0, 9]},
        "3 rows: allowed is at least 9",
    ),
    # columns
    "column all missing": (
        "y,x\n1,\n2,NA\n3,\n",
        {**BOTH, "missing": "mask"},
        "rows 0 .. 2, column 'x': no value: allowed is at least one",
    ),
    "column all missing, for units": (
        "y,x\n1,\n2,NA\n3,\n",
        {**BOTH, "missing": "mask", "scaling": "minmax"},
        "rows 0 .. 2, column 'x': no value: allowed is at least one for units",
    ),
    "window all missing": (
        'y\n1\n2\n""\n""\n""\n',
        {**COLUMN, "missing": "forward_fill", "rows": [1, 5]},
        "rows 2 .. 4: none has all its targets: allowed is at least one, to be scored",
    ),
    "window that starts in a gap": (
        'y\n1\n""\n3\n4\n',
        {**COLUMN, "missing": "mask", "rows": [1, 4]},
        "row 1, column 'y': missing, no value to start from: allowed is a window starting later",
    ),
    "constant 0 over its maximum": (
        "y\n0\n0\n0\n",
        {**COLUMN, "scaling": "window_max"},
        "column 'y' has maximum 0.0 in the window: allowed is a maximum > 0 with scaling = "
        "'window_max'",
    ),
    "column below 0 over its maximum": (
        "y\n-1\n-1\n-1\n",
        {**COLUMN, "scaling": "column_max"},
        "column 'y' has maximum -1.0 in the window: allowed is a maximum > 0 with scaling = "
        "'column_max'",
    ),
    "column twice": (
        "y,y\n1,2\n3,4\n",
        COLUMN,
        "column 'y' stands in the header twice: allowed is once",
    ),
    "column misspelt": (
        "price,load\n1,2\n3,4\n",
        {"targets": ["prise"]},
        "no column 'prise' (did you mean 'price'?): allowed is 'price', 'load'",
    ),
    # the file
    "empty file": ("", COLUMN, "no header: allowed is a line of column names, then rows"),
    "byte order mark alone": (
        "\ufeff",
        COLUMN,
        "no header: allowed is a line of column names, then rows",
    ),
    "header only": ("y,x\n", COLUMN, "0 rows: allowed is at least 2"),
    "no header": ("1,2\n3,4\n5,6\n", COLUMN, "no column 'y': allowed is '1', '2'"),
    "semicolons": (
        "y;x\n1,5;2\n3;4\n",
        COLUMN,
        "no column 'y': the header is one cell, 'y;x': allowed is commas between cells, not ';'",
    ),
    "UTF-16 with a mark": (
        "y\n1\n2\n".encode("utf-16"),
        COLUMN,
        "header is not UTF-8 text: allowed is a UTF-8 CSV file",
    ),
    "UTF-16 without a mark": (
        "y\n1\n2\n".encode("utf-16-le"),
        COLUMN,
        "header is not UTF-8 text: allowed is a UTF-8 CSV file",
    ),
    "Latin-1 header": (
        "y,Größe\n1,2\n3,4\n".encode("latin-1"),
        COLUMN,
        "header is not UTF-8 text: allowed is a UTF-8 CSV file",
    ),
    "a workbook": (
        b"PK\3\4\x14\0\0\0\x08\0",
        COLUMN,
        "header is not UTF-8 text: allowed is a UTF-8 CSV file",
    ),
    # dates
    "date twice": (
        "day,y\n2020-01-01,1\n2020-01-01,2\n",
        DATED,
        f"{DAY}: '2020-01-01' stands twice: {LATER}",
    ),
    "dates descending": (
        "day,y\n2020-02-01,1\n2020-03-01,2\n2020-01-31,3\n",
        DATED,
        f"row 2 (line 4), column 'day': '2020-01-31' follows '2020-03-01': {LATER}",
    ),
    "the same moment written twice": (
        "day,y\n2020-01-01T12:00+01:00,1\n2020-01-01T11:00Z,2\n",
        DATED,
        f"{DAY}: '2020-01-01T11:00Z' follows '2020-01-01T12:00+01:00': {LATER}",
    ),
    "numbers descending": (
        "day,y\n10,1\n9,2\n",
        DATED,
        f"{DAY}: '9' follows '10': {LATER}",
    ),
    "dates that could be two": (
        "day,y\n01/02/2020,1\n02/02/2020,2\n",
        DATED,
        f"row 0 (line 2), column 'day': '01/02/2020': {DATE}",
    ),
    "date missing": (
        "day,y\n2020-01-01,1\n,2\n",
        DATED,
        f"{DAY}: '': {DATE}",
    ),
    "dates of two kinds": (
        "day,y\n2020-01-01,1\n7,2\n",
        DATED,
        f"{DAY}: '7': allowed is a date without a time zone, as '2020-01-01' in the row before",
    ),
    "dates with and without a zone": (
        "day,y\n2020-01-01,1\n2020-01-02T00:00Z,2\n",
        DATED,
        f"{DAY}: '2020-01-02T00:00Z': allowed is a date without a time zone, "
        "as '2020-01-01' in the row before",
    ),
    "date column misspelt": (
        "day,y\n2020-01-01,1\n2020-01-02,2\n",
        {**COLUMN, "dates": "dya"},
        "no column 'dya' (did you mean 'day'?): allowed is 'day', 'y'",
    ),
}
"""What is refused, by name: content, keys of `[series]`, the message after the file's name."""


def rows_of(values, names="y"):
    """A CSV file of one column."""
    return names + "\n" + "\n".join(values) + "\n"


def twelve(cell, at=5):
    """Twelve rows of which one is `cell`."""
    return rows_of([cell if row == at else f"{row % 4}" for row in range(12)])


def beside(text, other="z"):
    """The same file with a column that is not read."""
    return text.replace("\n", f",{other}\n")


COUNTED = [f"{row % 4}" for row in range(12)]
EXPECTED = [float(cell) for cell in COUNTED]
FILLED = [0.0 if row == 5 else value for row, value in enumerate(EXPECTED)]
MASKED = [math.nan if row == 5 else value for row, value in enumerate(EXPECTED)]
SMALL = [1e-310 * value for value in EXPECTED]
HANDLED = {
    "byte order mark": ("\ufeff" + rows_of(COUNTED), COLUMN, EXPECTED),
    "Windows line ends": (rows_of(COUNTED).replace("\n", "\r\n"), COLUMN, EXPECTED),
    "old Mac line ends": (rows_of(COUNTED).replace("\n", "\r"), COLUMN, EXPECTED),
    "no line end at the end": (rows_of(COUNTED).rstrip(), COLUMN, EXPECTED),
    "empty lines at the end": (rows_of(COUNTED) + "\n\n", COLUMN, EXPECTED),
    "spaces and tabs": (rows_of([f" {cell}\t" for cell in COUNTED], " y "), COLUMN, EXPECTED),
    "quoted numbers": (rows_of([f'"{cell}"' for cell in COUNTED], '"y"'), COLUMN, EXPECTED),
    "text in another column": (beside(rows_of(COUNTED), "x"), COLUMN, EXPECTED),
    "Latin-1 in another column": (
        beside(rows_of(COUNTED)).replace(",z\n1", ",é\n1").encode("latin-1"),
        COLUMN,
        EXPECTED,
    ),
    "other columns twice": (beside(beside(rows_of(COUNTED))), COLUMN, EXPECTED),
    "dirt after the window": (
        rows_of(COUNTED).encode() + b'inf\n1,2\n\xff"\n',
        {**COLUMN, "rows": [0, 12]},
        EXPECTED,
    ),
    "gap, masked": (twelve("NaN"), {**COLUMN, "missing": "mask"}, MASKED),
    "gap, filled": (twelve(" NA "), {**COLUMN, "missing": "forward_fill"}, FILLED),
    "dates unordered, not named": (
        "".join(f"{9 - t},{cell}\n" for t, cell in enumerate(["y", *COUNTED])),
        COLUMN,
        EXPECTED,
    ),
    "constant": (rows_of(12 * ["0.1"]), COLUMN, 12 * [0.1]),
    "constant zero": (rows_of(12 * ["0"]), COLUMN, 12 * [0.0]),
    "constant, window_max": (
        rows_of(12 * ["0.1"]),
        {**COLUMN, "scaling": "window_max"},
        12 * [1.0],
    ),
    "constant, column_max": (
        rows_of(12 * ["0.1"]),
        {**COLUMN, "scaling": "column_max"},
        12 * [1.0],
    ),
    "constant, minmax": (rows_of(12 * ["0.1"]), {**COLUMN, "scaling": "minmax"}, 12 * [0.0]),
    "constant, prefix": (
        rows_of(12 * ["0.5"]),
        {**COLUMN, "scaling": "prefix", "prefix": 7},
        12 * [0.0],
    ),
    "constant, standardise": (
        rows_of(12 * ["0.1"]),
        {**COLUMN, "standardise": True},
        12 * [0.1],
    ),
    "denormals": (rows_of([f"{v!r}" for v in SMALL]), COLUMN, SMALL),
    "denormals, minmax": (
        rows_of([f"{v!r}" for v in SMALL]),
        {**COLUMN, "scaling": "minmax"},
        [value / 3 for value in EXPECTED],
    ),
    "denormals, prefix": (
        rows_of([f"{v!r}" for v in SMALL]),
        {**COLUMN, "scaling": "prefix", "prefix": 12},
        [value - 1.5e-310 for value in SMALL],  # the square of such a spread is 0: centred only
    ),
    "denormals, standardise": (
        rows_of([f"{v!r}" for v in SMALL]),
        {**COLUMN, "standardise": "both"},
        SMALL,
    ),
    "1e30, minmax": (
        twelve("1e30"),
        {**COLUMN, "scaling": "minmax"},
        [1.0 if row == 5 else value / 1e30 for row, value in enumerate(EXPECTED)],
    ),
    "3e38 and less, minmax": (
        rows_of(["-3e38", "3e38", *COUNTED[2:]]),
        {**COLUMN, "scaling": "minmax"},
        [0.0, 1.0, *(10 * [0.5])],
    ),
    "1e12, in no units": (
        twelve("1e12"),
        COLUMN,
        [1e12 if t == 5 else v for t, v in enumerate(EXPECTED)],
    ),
    "the largest that is taken": (
        rows_of([repr(LARGEST * (-1) ** row) for row in range(12)]),
        COLUMN,
        [LARGEST * (-1) ** row for row in range(12)],
    ),
    "dates with gaps": (
        rows_of([f"2020-01-{2 * t + 1:02d},{v}" for t, v in enumerate(COUNTED)], "day,y"),
        DATED,
        EXPECTED,
    ),
    "months": (
        rows_of([f"2020-{1 + t:02d},{v}" for t, v in enumerate(COUNTED)], "day,y"),
        DATED,
        EXPECTED,
    ),
    "nanoseconds": (
        rows_of([f"{10**18 + t},{v}" for t, v in enumerate(COUNTED)], "day,y"),
        DATED,
        EXPECTED,
    ),
}
"""What is taken, by name: content, keys of `[series]`, the targets that it becomes."""
