"""Good configs to plant faults in: a run, a study, a sweep, a tuning run, a table of one's own."""

import json
from typing import Any, NamedTuple

COST = {"tracking": 1.0, "effort": 1.0, "forgetting": 0.1}
RUN = {
    "name": "good",
    "seed": 1,
    "agents": 5,
    "dtype": "float32",
    "series": {
        "kind": "brownian",
        "name": "walk",
        "steps": 20,
        "volatility": 0.1,
        "drift": 0.5,
        "outputs": 1,
        "seed": 3,
        "standardise": "moves",
        "published": 0.25,
        "scored_from": 2,
    },
    "encoder": {
        "kind": "echo_state",
        "features": 4,
        "noise": 0.1,
        "activation": "tanh",
        "views": {"delay": 1, "offset": 0.1, "noise": 0.1},
    },
    "mixture": {"kind": "fixed_share", "rate": 1.0, "share": 0.1, "gradient": True},
    "participation": {"kind": "late", "first": 1, "last": 5},
    "policy": [
        {
            "kind": "greedy",
            "name": "alone",
            "window": 2,
            "game": "forecast",
            "ridge": 0.1,
            "discount": 0.9,
            "cost": COST,
        },
        {
            "kind": "decentralized",
            "name": "together",
            "horizon": 2,
            "window": 2,
            "sync_every": 1,
            "information": "feedback",
            "greedy_effort": 10.0,
            "staleness": 0,
            "cost": {**COST, "consensus": 2.0, "ensemble": 0.5},
        },
    ],
    "run": {
        "chunk": 5,
        "best_readout": False,
        "uncoupled": False,
        "schedule": "resident",
        "block": 2,
        "devices": 1,
        "reproducible": True,
    },
}
AXES = [
    {"key": "encoder.noise", "low": 0.1, "high": 1.0, "scale": "log", "count": 3},
    {"key": "policy.alone.window", "values": [1, 2]},
]
OWN = {
    "kind": "table",
    "name": "own",
    "path": "data.csv",
    "targets": ["y"],
    "inputs": ["y", "x"],
    "lags": [0, 1],
    "rows": [0, 9],
    "scaling": "prefix",
    "prefix": 3,
    "missing": "mask",
    "before": "first",
}
GOOD = {
    "run": {**RUN, "record": {"agents": [0], "steps": [1], "fields": ["prediction"]}},
    "study": {
        **RUN,
        "series": [RUN["series"], {"kind": "logistic", "steps": 9}],
        "encoder": [RUN["encoder"], {"kind": "random_features", "features": 2}],
    },
    "sweep": {**RUN, "sweep": {"method": "grid", "seeds": 2, "metric": "server_rmse", "top": 3,
                               "axis": AXES}},
    "tune": {**RUN, "tune": {"keys": ["policy.cost.effort", "mixture.kappa"], "policy": "alone",
                             "measure": "server_rmse", "temperature": 0.5, "optimiser": "adam",
                             "learning_rate": 0.05, "steps": 10, "patience": 3, "mode": "forward",
                             "seeds": [1, 2], "warm_up": 0.1, "validation": 0.2, "held_out": 0.25,
                             "origins": 1}, "mixture": {"kind": "ridge", "kappa": 2.0, "eta": 0.5,
                                                        "discount": 0.1}},
    "table": {**RUN, "series": OWN},
}  # fmt: skip

Place = tuple[str | int, ...]


class Fault(NamedTuple):
    """What is put where (`...` takes it away), and how the line about it begins."""

    base: str
    place: Place
    value: Any
    said: str


def dotted(place):
    return ".".join(map(str, place))


def shown(value):
    """A value as a message writes it, as far as it is not cut."""
    text = repr(value) if isinstance(value, float) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def leaves(node, place=()):
    """Yield every key that holds no table, with its place."""
    tables = isinstance(node, list) and node and all(isinstance(item, dict) for item in node)
    if isinstance(node, dict) or tables:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, (*place, key))
    else:
        yield place, node


def at(raw, place):
    for key in place:
        raw = raw[key]
    return raw


def new_leaves():
    """Yield every key of the good configs once, with the first config that has it."""
    seen = set()
    for base, raw in GOOD.items():
        for place, value in leaves(raw):
            family = place[0] if place[0] in ("series", "encoder") else None
            kind = at(raw, place[:-1]).get("kind") if family else None
            identity = (family, kind, place[-1]) if family else place
            if identity not in seen:
                seen.add(identity)
                yield base, place, value


def toml(raw, header=""):
    """Write a config: values as JSON has them, tables of any depth, lists of tables."""
    lines, below = [], []
    for key, value in raw.items():
        named = json.dumps(key)
        tables = value if isinstance(value, list) and value else [value]
        path = f"{header}.{named}" if header else named
        if isinstance(value, dict):
            below.append(f"[{path}]\n{toml(value, path)}")
        elif all(isinstance(one, dict) for one in tables):
            below += [f"[[{path}]]\n{toml(one, path)}" for one in tables]
        else:
            lines.append(f"{named} = {_inline(value)}\n")
    return "".join(lines + below)


def _inline(value):
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(k)} = {_inline(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    return repr(value) if isinstance(value, float) else json.dumps(value)
