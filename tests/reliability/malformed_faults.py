"""Faults to plant in good configs, each with how the line about it begins.

Systematic ones for every key: misspelt, of another type, out of range; then shapes and what no
single key shows.
"""

import math

from malformed_bases import Fault, dotted, new_leaves, shown

from memoa_jax.config import FAMILIES


def misspelt(word):
    """Leave a letter out, or double one where few would be left."""
    middle = len(word) // 2
    return word[:middle] + word[middle + 1 :] if len(word) > 4 else word + word[-1]


def typos():
    """Every key once more, misspelt; every kind and every choice misspelt."""
    for base, place, value in new_leaves():
        wrong = (*place[:-1], misspelt(place[-1]))
        yield Fault(base, wrong, value, f"{dotted(wrong)}: unknown key; did you mean {place[-1]}?")
    for family, kinds in FAMILIES.items():
        for kind in kinds:
            place = (family, 0, "kind") if family == "policy" else (family, "kind")
            value = misspelt(kind)
            said = f"{dotted(place)} = {shown(value)}: unknown kind; did you mean "
            yield Fault("run", place, value, said + ("" if len(kind) < 4 else f"{kind}?"))
    words = ("dtype", "activation", "game", "information", "schedule", "scaling", "missing",
             "before", "method", "metric", "scale", "measure", "optimiser", "mode")  # fmt: skip
    for base, place, value in new_leaves():
        if place[-1] in words:
            wrong = misspelt(value)
            hint = f"; did you mean {value}?"
            yield Fault(base, place, wrong, f"{dotted(place)} = {shown(wrong)}: allowed is *{hint}")


def wrong_values():
    """Every key with a value of another type, and every number out of its range."""
    for base, place, value in new_leaves():
        if place[-1] == "kind":
            continue
        number = type(value) in (int, float)
        values = [{"a": 1}, [[1]], "text"] if number else [7, {"a": 1}]
        values += [True] if number else []
        values += [math.nan, math.inf, -math.inf] if number else []
        values += [-1, 10**30] if type(value) is int else []
        for wrong in values:
            bounded = place[-1] not in ("chunk", "prefix", "first") or wrong != 10**30
            taken = (place[-1], shown(wrong)) in (("seeds", "7"), ("published", '{"a": 1}'))
            if bounded and not taken:
                yield Fault(base, place, wrong, f"{dotted(place)} = {shown(wrong)}: allowed is ")


GONE = ...
KINDS = "periodic, logistic, concept_drift, brownian, random_walk, step_change, seasonal, co2"
SHAPES = [
    # what is not there
    Fault("run", ("series",), GONE, "series: missing; allowed is a table"),
    Fault("run", ("series", "kind"), GONE, f"series.kind: missing; allowed: {KINDS}, "),
    Fault("study", ("series", 0, "kind"), GONE, f"series.0.kind: missing; allowed: {KINDS}, "),
    Fault("run", ("encoder", "kind"), GONE, "encoder.kind: missing; allowed: random_features, ec"),
    Fault("run", ("participation", "kind"), GONE, "participation.kind: missing; allowed: bern"),
    Fault("run", ("participation", "last"), GONE, "participation.last: missing; allowed is a w"),
    Fault("run", ("mixture", "rate"), GONE, "mixture.rate: missing; allowed is a number > 0"),
    Fault("run", ("mixture", "share"), GONE, "mixture.share: missing; allowed is a number > 0 and"),
    Fault("run", ("policy",), GONE, "policy: missing; allowed is one [[policy]] table or more"),
    Fault("run", ("policy", 1, "kind"), GONE, "policy.1.kind: missing; allowed: greedy, decentr"),
    Fault("table", ("series", "path"), GONE, "series.path: missing; allowed is the path of a file"),
    Fault("sweep", ("sweep", "method"), GONE, "sweep.method: missing; allowed is grid, random, s"),
    Fault("sweep", ("sweep", "axis"), GONE, "sweep.axis: missing; allowed is one [[sweep.axis]]"),
    Fault("sweep", ("sweep", "axis", 0, "key"), GONE, "sweep.axis.0.key: missing; allowed is a d"),
    Fault("sweep", ("sweep", "axis", 0, "high"), GONE, "sweep.axis.0.high: missing; allowed is a"),
    Fault("sweep", ("sweep", "axis", 0, "count"), GONE, "sweep.axis.0.count: missing; on a grid"),
    Fault("tune", ("tune", "keys"), GONE, "tune.keys: missing; allowed is a list of keys such as"),
    # tables and lists in each other's places
    *(
        Fault(base, place, wrong, f"{dotted(place)} = {shown(wrong)}: allowed is ")
        for base, place in (
            ("run", ("series",)),
            ("run", ("encoder",)),
            ("run", ("encoder", "views")),
            ("run", ("mixture",)),
            ("run", ("participation",)),
            ("run", ("policy",)),
            ("run", ("policy", 0)),
            ("run", ("policy", 0, "cost")),
            ("run", ("run",)),
            ("run", ("record",)),
            ("study", ("series", 1)),
            ("study", ("encoder", 1)),
            ("sweep", ("sweep",)),
            ("sweep", ("sweep", "axis")),
            ("sweep", ("sweep", "axis", 1)),
            ("tune", ("tune",)),
        )
        for wrong in (7, "text", False)
    ),
    *(
        Fault(base, place, [{"a": 1}], f'{dotted(place)} = [{{"a": 1}}]: allowed is a table')
        for base, place in (
            ("run", ("encoder", "views")),
            ("run", ("mixture",)),
            ("run", ("participation",)),
            ("run", ("policy", 0)),
            ("run", ("policy", 0, "cost")),
            ("run", ("run",)),
            ("run", ("record",)),
            ("sweep", ("sweep",)),
            ("tune", ("tune",)),
        )
    ),
    Fault("run", ("policy",), {"kind": "greedy"}, 'policy = {"kind": "greedy"}: allowed is one [['),
    Fault("run", ("policy",), [], "policy = []: allowed is one [[policy]] table or more"),
    Fault("study", ("series",), [], "series = []: allowed is one [[series]] table or more"),
    Fault("sweep", ("sweep", "axis"), [], "sweep.axis = []: allowed is one [[sweep.axis]] table"),
    Fault("sweep", ("sweep", "axis", 1, "values"), [], "sweep.axis.1.values = []: allowed is a l"),
    # lists
    Fault("run", ("record", "agents"), [0, 5], "record.agents.1 = 5: allowed is 0 to 4"),
    Fault("run", ("record", "agents"), [True], "record.agents.0 = true: allowed is a whole number"),
    Fault("run", ("record", "steps"), [1, "2"], 'record.steps.1 = "2": allowed is a whole number'),
    Fault("run", ("record", "fields"), ["wieghts"], "record.fields.0 = *; did you mean weights?"),
    Fault("table", ("series", "targets"), [""], 'series.targets.0 = "": allowed is a text that is'),
    Fault("table", ("series", "inputs"), [3], "series.inputs.0 = 3: allowed is a text that is not"),
    Fault("table", ("series", "lags"), [0, -1], "series.lags = [0, -1]: allowed is a list of who"),
    Fault("table", ("series", "lags"), {"y": [0.5]}, 'series.lags = {"y": [0.5]}: allowed is a li'),
    Fault("table", ("series", "rows"), [0], "series.rows = [0]: allowed is [start, stop]"),
    Fault("table", ("series", "rows"), [0, -9], "series.rows.1 = -9: allowed is a whole number"),
    Fault("tune", ("tune", "seeds"), [1, 1], "tune.seeds = [1, 1]: allowed is how many (1 to"),
    Fault("sweep", ("sweep", "seeds"), 0, "sweep.seeds = 0: allowed is how many (1 to 10000), o"),
    # numbers at the edge of what is allowed
    *(
        Fault(base, place, wrong, f"{dotted(place)} = {shown(wrong)}: allowed is ")
        for base, place, wrong in (
            ("run", ("agents",), 0),
            ("run", ("seed",), 2**32),
            ("run", ("series", "steps"), 0),
            ("run", ("series", "volatility"), -0.5),
            ("run", ("series", "published"), -1),
            ("run", ("encoder", "noise"), -1e-9),
            ("run", ("mixture", "share"), 1.0),
            ("run", ("mixture", "rate"), 0.0),
            ("run", ("policy", 0, "discount"), 1.5),
            ("run", ("policy", 0, "discount"), 0.0),
            ("run", ("policy", 0, "cost", "effort"), 0),
            ("run", ("policy", 1, "cost", "forgetting"), -0.1),
            ("run", ("run", "chunk"), 0),
            ("run", ("run", "devices"), 0),
            ("table", ("series", "prefix"), 1),
            ("sweep", ("sweep", "axis", 0, "count"), 1),
            ("sweep", ("sweep", "axis", 0, "high"), 0.1),
            ("sweep", ("sweep", "axis", 0, "low"), 0.0),
            ("sweep", ("sweep", "axis", 0, "low"), 10**400),
            ("run", ("series", "published"), 10**400),
            ("run", ("series", "volatility"), 10**400),
            ("tune", ("tune", "warm_up"), 1.0),
            ("tune", ("tune", "held_out"), 0.0),
            ("tune", ("tune", "learning_rate"), 0),
        )
    ),
    # what no single key shows
    Fault("run", ("policy", 1, "name"), "alone", 'policy.1.name = "alone": taken by another poli'),
    Fault("run", ("policy", 1, "name"), "persistence", 'policy.1.name = "persistence": kept for'),
    Fault("run", ("policy", 1, "name"), "a b", 'policy.1.name = "a b": allowed is a name of lett'),
    Fault("run", ("name",), "a/b", 'name = "a/b": allowed is a name of letters, digits, '),
    Fault("study", ("series", 1, "name"), "walk", 'series.1.name = "walk": taken by another ser'),
    Fault("study", ("encoder", 1, "name"), "echo_state", "encoder.1.name = *: taken by another e"),
    Fault("study", ("record",), {}, "record: allowed in a run of one series, one encoder and one"),
    Fault("study", ("seeds",), [1, 2], "seeds: seed is given too; allowed is one of them"),
    Fault("run", ("participation", "last"), 0, "participation.last = 0: allowed is a whole numbe"),
    Fault("table", ("series", "path"), 300 * "x", 'series.path = *x": no such file'),
    Fault("table", ("series", "path"), "none.csv", 'series.path = *none.csv": no such file'),
    Fault("table", ("series", "path"), "a\0b.csv", 'series.path = *.csv": no such file'),
    Fault("table", ("series", "path"), "~nobody-here/a.csv", 'series.path = *.csv": no such file'),
    Fault("sweep", ("sweep", "points"), 5, "sweep.points: a grid has the points of its axes; all"),
    Fault("sweep", ("sweep", "axis", 1, "low"), 1, "sweep.axis.1.low = 1: values are given too;"),
    Fault("sweep", ("sweep", "axis", 1, "values"), [1, 1], "sweep.axis.1.values = [1, 1]: a valu"),
    Fault("sweep", ("sweep", "axis", 0, "key"), "policy.alone.window", "sweep.axis.1.key = *: ta"),
    Fault("sweep", ("sweep", "axis", 0, "key"), "dtype", 'sweep.axis.0.key = "dtype": allowed is'),
    Fault("sweep", ("sweep", "axis", 1, "key"), "policy.alone.windw", "sweep.axis.1: policy.0.wi"),
    Fault("sweep", ("sweep", "axis", 1, "values"), [1, 0], "sweep.axis.1: policy.0.window = 0: a"),
    Fault("tune", ("tune", "policy"), "alon", 'tune.policy = "alon": *; did you mean alone?'),
    Fault("tune", ("tune", "keys"), ["a\nb"], 'tune.keys.0 = "a\\nb": not a number that this r'),
    Fault("tune", ("tune", "keys"), ["mixture.kapa"], "tune.keys.0 = *; did you mean mixture.ka"),
    Fault("tune", ("tune", "keys"), 2 * ["mixture.eta"], 'tune.keys.1 = "mixture.eta": named twi'),
    Fault("run", ("agents",), 2**31, "agents = 2147483648: allowed is *, at most 2147483647"),
    Fault("run", ("series", "kind"), 7, "series.kind = 7: unknown kind; allowed: periodic, "),
    Fault("run", ("policy", 0, "kind"), ["greedy"], 'policy.0.kind = ["greedy"]: unknown kind'),
    Fault("tune", ("",), 1, "'': unknown key; allowed: name, "),
    Fault("run", ("a\nb",), 1, "'a\\nb': unknown key; allowed: name, "),
]
