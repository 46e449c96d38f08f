"""Results as a labelled dataset, and as NetCDF: the extra `xarray`.

A run has the dimensions policy, time, output, and of what was recorded agent, feature and, where
only some steps were, recorded_time; a study, a sweep or a tuning is a table with the dimension
row. Nothing is left out or repaired: NaN and infinities are there as they were written, a policy
that was cut off has its `rows` and NaN after them, and what was not finite in a summary is NaN and
named by `non_finite`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memoa_jax.files import remove
from memoa_jax.results import Results, load

if TYPE_CHECKING:
    import xarray

_RMSE, _COST, _COUNT = "target units", "target units squared", "1"
MEANINGS: dict[str, tuple[str, str | None]] = {
    "time": ("row of the series", _COUNT),
    "recorded_time": ("row of the series at which agents were recorded", _COUNT),
    "policy": ("policy", None),
    "output": ("output of the series", _COUNT),
    "agent": ("index of the agent", _COUNT),
    "feature": ("feature of the agent", _COUNT),
    "targets": ("the series, NaN where it is missing", _RMSE),
    "server": ("server's prediction of the row, made before it was seen", _RMSE),
    "mean_field": ("mean of the agents' predictions of the row", _RMSE),
    "prediction": ("agent's prediction of the row", _RMSE),
    "control": ("agent's control", _COUNT),
    "features": ("agent's features", _COUNT),
    "weights": ("server's weight of the agent", _COUNT),
    "server_rmse": ("RMSE of the server", _RMSE),
    "mean_field_rmse": ("RMSE of the mean field", _RMSE),
    "mean_agent_rmse": ("mean RMSE of the agents", _RMSE),
    "worst_agent_rmse": ("RMSE of the worst agent", _RMSE),
    "best_agent_rmse": ("RMSE of the best agent", _RMSE),
    "mean_agent_cost": ("mean of the agents' summed squared errors", _COST),
    "worst_agent_cost": ("summed squared error of the worst agent", _COST),
    "best_agent_cost": ("summed squared error of the best agent", _COST),
    "agent_cost_variance": ("variance of the agents' costs", "target units to the fourth power"),
    "mean_agent_effort": ("mean of the agents' summed squared controls", _COUNT),
    "under_performer_regret": ("worst cost minus that of the reference policy", _COST),
    "under_performer_regret_best_readout": (
        "worst cost minus that under the best fixed read-out in hindsight",
        _COST,
    ),
    "worst_agent": ("index of the worst agent", _COUNT),
    "diverged_agents": ("number of agents that diverged", _COUNT),
    "status": ("bits of memoa_jax.types.Status", _COUNT),
    "seconds": ("wall clock, compilation included", "s"),
    "compile_seconds": ("of it the compiler's", "s"),
    "agent_steps_per_second": ("agent-steps per second, compilation apart", "1/s"),
    "persistence": ("RMSE of persistence", _RMSE),
    "running_mean": ("RMSE of the running mean", _RMSE),
    "rows": ("rows of the series that the policy reached", _COUNT),
    "complete": ("whether the policy ran to its end", None),
    "non_finite": ("figures that were not finite", None),
    "notes": ("what the run had to say", None),
    "kind": ("kind of the policy", None),
    "game": ("game that it plays", None),
}
"""long_name and units (None: words or flags) of what a dataset holds."""
_FIELDS = {
    "prediction": ("agent", "output"),
    "control": ("agent", "feature"),
    "features": ("agent", "output", "feature"),
    "weights": ("agent",),
}
"""The dimensions of what `record` keeps, after policy and time."""
_MISSING = "xarray and h5netcdf are not installed: pip install 'memoa-jax[xarray]'"


def to_xarray(source: str | Path | Results) -> xarray.Dataset:
    """Return results as a dataset with named dimensions, units, and the manifest as attributes.

    Args:
      source: a folder, or what `memoa_jax.results.load` made of one.

    Raises:
      ImportError: if xarray is not installed, with what to type.
      ValueError: as `memoa_jax.results.load`.
    """
    try:
        import xarray
    except ImportError as error:
        raise ImportError(_MISSING) from error
    found = source if isinstance(source, Results) else load(source)
    if found.kind == "run":
        coordinates, variables = _run(found)
    else:
        coordinates = {}
        variables = {name: (("row",), column) for name, column in found.arrays.items()}
    dataset = xarray.Dataset(variables, coordinates, _attributes(found))
    for name in dataset.variables:
        meaning, units = MEANINGS.get(str(name), (str(name), None))
        dataset[name].attrs["long_name"] = meaning
        if units is not None:
            dataset[name].attrs["units"] = units
    return dataset


def to_netcdf(source: str | Path | Results, path: str | Path) -> None:
    """Write results as a NetCDF-4 file, whole or not at all.

    Raises:
      ImportError, ValueError: as `to_xarray`.
      OSError: if it cannot be written.
    """
    dataset, path = to_xarray(source), Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            dataset.to_netcdf(temporary, engine="h5netcdf")
        except (ImportError, ValueError) as error:  # xarray's way to say that there is no engine
            if "h5netcdf" in str(error) or isinstance(error, ImportError):
                raise ImportError(_MISSING) from error
            raise
        os.replace(temporary, path)
    finally:
        remove(temporary)


Variables = dict[str, Any]


def _run(found: Results) -> tuple[Variables, Variables]:
    """Return the coordinates and the variables of a run."""
    summary, arrays = found.summary, found.arrays
    labels = list(summary["policies"])
    points, outputs = arrays["targets"].shape
    record = found.config.get("record") or {}
    steps = record.get("steps")
    when = "time" if steps is None else "recorded_time"
    coordinates: Variables = {
        "policy": np.array(labels, str),
        "time": np.arange(points),
        "output": np.arange(outputs),
    }
    variables: Variables = {"targets": (("time", "output"), arrays["targets"])}
    for name in ("server", "mean_field"):
        values = [arrays[f"{name}/{label}"] for label in labels]
        variables[name] = (("policy", "time", "output"), _stacked(values, points))
    for name, dimensions in _FIELDS.items():
        names = [f"recorded/{label}/{name}" for label in labels]
        if names and names[0] in arrays:
            values = [arrays[one] for one in names]
            stacked = _stacked(values, points if steps is None else len(steps))
            variables[name] = (("policy", when, *dimensions), stacked)
            coordinates["agent"] = np.array(record["agents"])
            if steps is not None:
                coordinates[when] = np.array(steps)
    for name, numbers in _figures(summary).items():
        variables[name] = (("policy",), numbers)
    for name, value in summary["baselines"].items():
        if name in MEANINGS and name != "non_finite":
            variables[name] = ((), np.nan if value is None else value)
    partial = [summary["partial"].get(label, points) for label in labels]
    variables["rows"] = (("policy",), np.array(partial, np.int64))
    complete = np.array([label not in summary["partial"] for label in labels], bool)
    variables["complete"] = (("policy",), complete)
    return coordinates, variables


def _figures(summary: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return each figure of the policies: numbers (None is NaN), counts or words."""
    policies = list(summary["policies"].values())
    found: dict[str, NDArray[Any]] = {}
    for name in policies[0] if policies else ():
        values = [one[name] for one in policies]
        if isinstance(values[0], list):
            found[name] = np.array(["; ".join(value) for value in values], str)
        elif all(isinstance(value, int) for value in values):
            found[name] = np.array(values, np.int64)
        elif all(value is None or isinstance(value, int | float) for value in values):
            found[name] = np.array([np.nan if v is None else v for v in values], np.float64)
        else:
            found[name] = np.array(values, str)
    return found


def _stacked(values: list[Any], rows: int) -> NDArray[Any]:
    """Stack the policies' rows; what a policy did not reach is NaN."""
    padded = []
    for one in values:
        missing = np.full((rows - len(one), *one.shape[1:]), np.nan, one.dtype)
        padded.append(np.concatenate([one, missing]))
    return np.stack(padded)


def _attributes(found: Results) -> dict[str, Any]:
    """Return what holds for all of the results, as NetCDF takes it: words and numbers."""
    summary = found.summary
    plain: dict[str, Any] = {"kind": found.kind}
    for key in ("name", "interrupted", "not_run", "agents", "seed", "seeds", "series", "steps"):
        if key in summary and not isinstance(summary[key], dict):
            plain[key] = summary[key]
    if summary.get("regret_reference"):
        plain["regret_reference"] = summary["regret_reference"]
    plain |= {f"manifest_{key}": value for key, value in found.manifest.items()}
    plain["config"] = found.config_text
    return {key: _attribute(value) for key, value in plain.items()}


def _attribute(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True)
