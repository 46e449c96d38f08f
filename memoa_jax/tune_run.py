"""`memoa tune`: descend on early rows of a series, judge on later ones, write what was found."""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax import build, canary, tune_report
from memoa_jax.config_faults import ConfigError
from memoa_jax.config_file import put, to_toml
from memoa_jax.config_tune import TUNABLE, TuneConfig, key_of
from memoa_jax.descent import Objective, Parameters, Step
from memoa_jax.figure_style import FigureError
from memoa_jax.keeping import Keeper
from memoa_jax.progress import SILENT, Watch
from memoa_jax.report import to_json, write_files
from memoa_jax.run import in_one_line, input_files, manifest
from memoa_jax.session import Session
from memoa_jax.simulate import simulate
from memoa_jax.stream_gradient import stream_gradient
from memoa_jax.timeseries import Series, part
from memoa_jax.tune_report import Origin, Split
from memoa_jax.tuning import (
    Gradient,
    Tuned,
    check_gradient,
    chosen_mode,
    objective_of,
    tune,
    value_and_gradient,
)

FEWEST_ROWS = 2
"""Rows that a window must have: descended on, validated on, held out."""
JUDGED = ("server_rmse", "mean_agent_rmse", "worst_agent_rmse", "mean_agent_cost")
"""The figures of a summary that a held-out window is told in, beside the worst agent's cost."""


def run_tuning(
    config: TuneConfig,
    folder: Path,
    say: Callable[[str], None],
    session: Session | None = None,
    *,
    check: bool = False,
    watch: Watch = SILENT,
) -> dict[str, Any]:
    """Tune, write history.csv, summary.json, best.toml, final.toml and a figure; return a summary.

    A keyboard interrupt ends the descent early: what was found is judged and written.

    Args:
      config: as loaded; x64 must be on already if its dtype is float64.
      folder: an existing folder for the files.
      say: receives lines of progress.
      session: keeps the descent, and knows what to go on from.
      check: whether to compare the first gradient with central differences.
      watch: told how far it is after each step.

    Raises:
      ConfigError: if the library refuses what the config asks for.
      RunError: if the installed jax computes wrong numbers, or the environment fails.
      KeyboardInterrupt: if interrupted before the first step was known.
    """
    begun = time.perf_counter()
    with in_one_line():
        canary.check_build()
        if check and config.run.schedule == "stream":
            raise ConfigError(['--check-gradients: allowed is run.schedule = "resident"'])
        if check:  # a difference of two runs needs the digits
            config = config.model_copy(update={"dtype": "float64"})
        series = build.series(config.series)
        windows = splits(config, series.num_points)
        check_known(series, windows)
        encoder = build.encoder(config, series.num_points, series=series)
        for table in config.policy:
            build.check_gains(config, table, series, encoder)
        config = config.sized(encoder.features, series.targets.shape[1])
    start, checked = config.start(), None
    origins: list[Origin] = []
    for number, split in enumerate(windows):
        said = f"origin {number + 1} of {len(windows)}: " if len(windows) > 1 else ""
        with in_one_line():
            if check and checked is None:
                objective = objective_on(config, part(series, split.scored, split.validation))
                checked = check_gradient(objective, start, config.tune.mode)
                say(tune_report.told_check(checked))
            with _keeper(session, number) as keeper:
                told = functools.partial(_after, say, said)
                within = watch.within(said.removesuffix(": "), 0, 0)
                tuned = _descend(config, series, split, start, told, keeper, within)
            origins.append(Origin(split, tuned, _judged(config, series, split, tuned, start)))
        if tuned.stopped == "interrupted":
            break
    summary = tune_report.summarise(
        config,
        origins,
        planned=len(windows),
        mode=chosen_mode(len(start), config.tune.mode),
        checked=checked,
        seconds=time.perf_counter() - begun,
    )
    _write(config, folder, origins, summary, say)
    if session is not None and not summary["interrupted"]:
        session.clear()
    return summary


@contextmanager
def _keeper(session: Session | None, number: int) -> Iterator[Keeper | None]:
    """Have an origin's descent kept; who asks it to stop meanwhile waits for the end of a step."""
    if session is None:
        yield None
        return
    session.look()
    with session.looking():
        yield session.keeper(f"origin-{number}", f"origin {number + 1}")


def _after(say: Callable[[str], None], said: str, line: str) -> None:
    say(said + line)


def splits(config: TuneConfig, points: int) -> list[Split]:
    """Return where the windows of every origin begin and end.

    Raises:
      ConfigError: if one of them has fewer than `FEWEST_ROWS` rows.

    Source: rolling origins as in Tashman (2000): each window is judged with what was tuned on
      the rows before it.
    """
    wanted, held = config.tune, round(config.tune.held_out * (points - 1))
    edges = [points - held + (held * k) // wanted.origins for k in range(wanted.origins + 1)]
    found = []
    for begin, stop in itertools.pairwise(edges):
        scored = max(1, round(wanted.warm_up * begin))
        split = Split(scored, begin - round(wanted.validation * (begin - scored)), begin, stop)
        for name, first, last in (
            ("warm_up and tune.validation leave", split.scored, split.validation),
            ("validation has", split.validation, split.held_out),
            ("held_out and tune.origins give a window of", split.held_out, split.stop),
        ):
            if last - first < FEWEST_ROWS:
                fault = f"tune.{name} {last - first} rows of the series' {points - 1}"
                raise ConfigError([f"{fault}: allowed is {FEWEST_ROWS} or more"])
        found.append(split)
    return found


def check_known(series: Series, windows: Sequence[Split]) -> None:
    """Refuse windows that nothing can be judged on, before anything is descended on.

    Raises:
      ConfigError: if a window of any origin has no row all of whose targets are known.
    """
    for split in windows:
        for name, first, last in (
            ("warm_up and tune.validation leave", split.scored, split.validation),
            ("validation has", split.validation, split.held_out),
            ("held_out and tune.origins give a window of", split.held_out, split.stop),
        ):
            if not series.known[first:last].any():
                fault = f"tune.{name} rows {first}..{last - 1}, none of which has all its targets"
                raise ConfigError([f"{fault}: allowed are rows of which at least one has"])


def objective_on(config: TuneConfig, series: Series) -> Objective:
    """Return the mean over the seeds of what is to be small, on the scored rows of a series."""
    keys = [jax.random.key(seed) for seed in config.all_seeds]
    reverse = chosen_mode(len(config.start()), config.tune.mode) == "reverse"
    # Going back, states are kept at the chunks' ends.
    chunk = math.isqrt(series.num_points) if reverse else None

    def objective(parameters: Parameters) -> jax.Array:
        def one(key: jax.Array) -> jax.Array:
            how = {**_how(config, key), "schedule": config.run.schedule, "block": config.run.block}
            parts = _parts(config, series, parameters)
            result = simulate(series, *parts, keep_costs=True, chunk=chunk, **how)
            return objective_of(result, config.tune.measure, config.tune.temperature)

        if len(keys) == 1 or config.run.schedule == "stream":
            return jnp.mean(jnp.stack([one(key) for key in keys]))
        return jnp.mean(jax.vmap(one)(jnp.stack(keys)))

    return objective


def gradient_on(config: TuneConfig, series: Series) -> Gradient:
    """Return value and gradient of `objective_on`; of a stream block by block."""
    if config.run.schedule != "stream":
        objective = objective_on(config, series)
        return value_and_gradient(objective, len(config.start()), config.tune.mode)
    each = [
        stream_gradient(
            series,
            lambda parameters: _parts(config, series, parameters),
            config.start(),
            config.tune.measure,
            config.tune.temperature,
            block=config.run.block,
            mode=config.tune.mode,
            **_how(config, jax.random.key(seed)),
        )
        for seed in config.all_seeds
    ]

    def follow(parameters: Mapping[str, Any]) -> tuple[float, dict[str, float]]:
        found = [one(parameters) for one in each]
        slopes = {name: float(np.mean([one[1][name] for one in found])) for name in parameters}
        return float(np.mean([one[0] for one in found])), slopes

    return follow


def _parts(config: TuneConfig, series: Series, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
    """Build encoder, policy and mixture with parameters in place of the config's values."""
    return (
        build.encoder(config, series.num_points, parameters, series),
        build.policy(config.tuned_policy, parameters),
        build.server_mixture(config, parameters),
    )


def _how(config: TuneConfig, key: jax.Array) -> dict[str, Any]:
    """Return the other arguments of `simulate`."""
    return {"num_agents": config.agents, "key": key, "dtype": config.dtype}


def _descend(
    config: TuneConfig,
    series: Series,
    split: Split,
    start: Mapping[str, float],
    say: Callable[[str], None],
    keeper: Keeper | None,
    watch: Watch,
) -> Tuned:
    """Descend on one origin's rows, and choose the step by those after them."""
    wanted, began = config.tune, time.perf_counter()

    rows = split.validation + split.held_out  # each run begins at the series' first
    size = config.agents * len(config.all_seeds) * rows
    see = watch.steps("step", wanted.steps, agent_steps=size)

    def told(number: int, step: Step) -> None:
        see(number, objective=step.objective, validation=step.validation)
        if number in (0, 1) or number % max(wanted.steps // 10, 1) == 0:
            spent = time.perf_counter() - began
            say(
                f"step {number} of {wanted.steps}: {wanted.measure} {step.objective:.6g}, "
                f"validation {step.validation:.6g} ({spent:.1f} s)"
            )

    validation = objective_on(config, part(series, split.validation, split.held_out))
    streamed = config.run.schedule == "stream"  # compiles its own blocks
    return tune(
        gradient_on(config, part(series, split.scored, split.validation)),
        start,
        {name: TUNABLE[key_of(name)] for name in start},
        validation=validation if streamed else jax.jit(validation),
        optimiser=wanted.optimiser,
        learning_rate=wanted.learning_rate,
        steps=wanted.steps,
        patience=wanted.patience,
        on_step=told,
        keeper=keeper,
    )


def _judged(
    config: TuneConfig, series: Series, split: Split, tuned: Tuned, start: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Return the figures of default, tuned and persistence on the held-out rows."""
    lived = part(series, split.held_out, split.stop)
    found = {
        "default": _figures(config, lived, start),
        "tuned": _figures(config, lived, tuned.best.parameters),
    }
    persistence = found["default"].pop("persistence")
    found["tuned"].pop("persistence")
    outputs = series.targets.shape[1]
    found["persistence"] = {
        "server_rmse": persistence,
        "mean_agent_rmse": persistence,
        "worst_agent_rmse": persistence,
        "mean_agent_cost": outputs * persistence**2,
        "worst_agent_cost": outputs * persistence**2,
    }
    rows_scored = float(lived.scored.sum())
    return {name: {**figures, "rows": rows_scored} for name, figures in found.items()}


def _figures(
    config: TuneConfig, series: Series, parameters: Mapping[str, float]
) -> dict[str, float]:
    """Return the means over the seeds of a run's figures; costs are per scored row."""
    found: list[dict[str, float]] = []
    # As arrays: other parameters are then no other program.
    values = {key: jnp.asarray(value, config.dtype) for key, value in parameters.items()}
    for seed in config.all_seeds:
        parts = _parts(config, series, values)
        summary = simulate(series, *parts, **_how(config, jax.random.key(seed))).summary
        rows = max(int(summary.scored_steps), 1)
        figures = {name: float(getattr(summary, name)) for name in JUDGED}
        figures["mean_agent_cost"] /= rows
        figures["worst_agent_cost"] = float(summary.worst_agent_cost) / rows
        figures["persistence"] = float(summary.persistence_rmse)
        found.append(figures)
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def tuned_config(config: TuneConfig, values: Mapping[str, float], scored_from: int) -> TuneConfig:
    """Return the config with values in place of its own, judged from a row on."""
    raw = config.model_dump(exclude_none=True)
    place = [one.name for one in config.policy].index(config.tuned_policy.name)
    for key, value in values.items():
        family, _, rest = key.partition(".")
        put(raw, f"policy.{place}.{rest}" if family == "policy" else key, value)
    put(raw, "series.scored_from", scored_from)
    return TuneConfig.model_validate(raw)


def _write(
    config: TuneConfig,
    folder: Path,
    origins: Sequence[Origin],
    summary: Mapping[str, Any],
    say: Callable[[str], None],
) -> None:
    """Write the files, and the figure where it can be drawn."""
    last = origins[-1]
    files = {
        "history.csv": tune_report.to_csv(origins),
        "summary.json": to_json(summary),
        "config.toml": to_toml(config, folder),
    }
    for name, step in (("best", last.tuned.best), ("final", last.tuned.final)):
        tuned = tuned_config(config, step.parameters, origins[0].split.held_out)
        files[f"{name}.toml"] = to_toml(tuned.as_run(f"{config.name}-{name}"), folder)
    inputs = {file.name: file for file in input_files(config).values()}
    facts = {**manifest(config, inputs), "seeds": config.all_seeds}
    write_files(folder, {name: text.encode() for name, text in files.items()}, facts)
    try:
        tune_report.draw(origins, config.tune.measure, folder / "history.png")
    except FigureError as error:
        say(f"no figure: {error}")
