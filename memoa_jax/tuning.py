"""Tuning: gradients of a whole run, and descent along them.

A run is a differentiable function of the numbers in its parts. `objective_of` makes of a run what
is to be small, `value_and_gradient` differentiates it, `tune` descends. Parameters are a
dictionary of numbers; beside it lies a dictionary of the same keys that names how each is bound.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from memoa_jax.arguments import number, one_of, whole
from memoa_jax.simulate import Result
from memoa_jax.types import Array, Scalar

Parameters = dict[str, Any]
Objective = Callable[[Parameters], Array]
Followed = Callable[[Mapping[str, Any]], tuple[float, dict[str, float]]]
Measure = Literal["server_rmse", "mean_agent_cost", "worst_agent_cost"]
Bound = Literal["positive", "not_negative", "share", "free"]
Mode = Literal["auto", "forward", "reverse"]

FORWARD_MOST = 8
"""Up to so many parameters forward mode is chosen: each costs about one more plain run, while
reverse mode costs about four however many there are, and memory for the states on the way."""
OPTIMISERS = ("adam", "adabelief", "lion", "nadam", "rmsprop", "sgd")
"""Names of optax optimisers that take nothing but a learning rate."""
INSIDE = 1e-3
"""How far inside of its bounds a parameter starts: from a bound itself no step leads away."""


def objective_of(result: Result, measure: Measure, temperature: Scalar = 0.0) -> Array:
    """Return what of a run is to be small.

        server_rmse       the server's RMSE over the scored rows
        mean_agent_cost   mean_i c_i,    c_i = agent i's squared error per scored row
        worst_agent_cost  max_i c_i, or its smooth bound from above for a temperature > 0,
                          max_i c_i <= temperature log sum_i exp(c_i / temperature)
                                    <= max_i c_i + temperature log N

    Exact; O(N). Where several agents share the maximum its derivative is the mean of theirs.

    Args:
      result: of a run that kept its agents' costs.
      measure: one of the three.
      temperature: of the smooth maximum, in squared target units per row; 0 is the maximum.

    Raises:
      ValueError: if there is no such measure, or the temperature is negative.

    Example:
      >>> from memoa_jax import greedy, random_features, ridge_mixture, series, simulate
      >>> result = simulate(series.periodic(20), random_features(4), greedy(), ridge_mixture(),
      ...                   num_agents=3, key=jax.random.key(0))
      >>> worst = objective_of(result, "worst_agent_cost")
      >>> bool(worst <= objective_of(result, "worst_agent_cost", temperature=0.1))
      True
    """
    one_of("objective_of", "measure", measure, get_args(Measure))
    number("objective_of", "temperature", temperature, ">= 0", lambda value: value >= 0)
    if measure == "server_rmse":
        return result.summary.server_rmse
    costs = jnp.asarray(result.agent_costs) / jnp.maximum(result.summary.scored_steps, 1)
    if measure == "mean_agent_cost":
        return jnp.mean(costs)
    if isinstance(temperature, int | float) and temperature == 0:
        return jnp.max(costs)
    return temperature * jax.nn.logsumexp(costs / temperature)


def value_and_gradient(
    objective: Objective, count: int, mode: Mode = "auto"
) -> Callable[[Parameters], tuple[Array, Parameters]]:
    """Return the compiled function that gives an objective's value and gradient.

    Forward mode carries one derivative per parameter through the run; reverse mode goes back
    through it (give the run a `chunk` of about sqrt(n) steps). "auto" chooses forward mode for up
    to `FORWARD_MOST` parameters.

    Args:
      objective: of a dictionary of scalars.
      count: how many parameters there are.
      mode: "auto", "forward" or "reverse".

    Raises:
      ValueError: if there is no such mode.

    Example:
      >>> squares = value_and_gradient(lambda p: p["a"] ** 2 + p["b"], 2)
      >>> value, gradient = squares({"a": 3.0, "b": 1.0})
      >>> float(value), float(gradient["a"]), float(gradient["b"])
      (10.0, 6.0, 1.0)
    """
    one_of("value_and_gradient", "mode", mode, get_args(Mode))
    if chosen_mode(count, mode) == "reverse":
        return jax.jit(jax.value_and_grad(objective))

    def forward(parameters: Parameters) -> tuple[Array, Parameters]:
        names = list(parameters)
        values = jnp.stack([jnp.asarray(parameters[name]) for name in names])

        def at(values: Array) -> tuple[Array, Array]:
            value = objective({name: values[k] for k, name in enumerate(names)})
            return value, value

        slopes, value = jax.jacfwd(at, has_aux=True)(values)
        return value, {name: slopes[k] for k, name in enumerate(names)}

    return jax.jit(forward)


def chosen_mode(count: int, mode: Mode = "auto") -> str:
    """Return "forward" or "reverse": what "auto" comes to for a number of parameters."""
    if mode != "auto":
        return mode
    return "forward" if count <= FORWARD_MOST else "reverse"


@dataclasses.dataclass(frozen=True)
class Checked:
    """A gradient beside central differences, by parameter; `difference` is relative."""

    gradient: Mapping[str, float]
    central: Mapping[str, float]
    difference: Mapping[str, float]


def check_gradient(
    objective: Objective,
    parameters: Mapping[str, float],
    mode: Mode = "auto",
    step: float | None = None,
) -> Checked:
    """Compare a gradient with central differences; meant for float64 runs.

        (f(x + h) - f(x - h)) / 2h,   h = step max(|x|, 1);  refined by h/2 (Richardson)

    The error of the differences is O(h^4), and rounding over h. Differences are taken relative to
    the larger of the two, or to 1e-6 of the objective's value per unit where both are smaller.

    Args:
      objective: as for `value_and_gradient`.
      parameters: where.
      mode: of the gradient.
      step: h, for parameters of size 1; None: 1e-5, or 1e-2 where 64-bit is off.

    Example:
      >>> found = check_gradient(lambda p: jnp.sin(p["a"]), {"a": 1.0})
      >>> found.difference["a"] < 1e-3
      True
    """
    step = step or (1e-5 if jnp.result_type(float) == jnp.float64 else 1e-2)
    start = {name: jnp.asarray(value, float) for name, value in parameters.items()}
    value, slopes = value_and_gradient(objective, len(start), mode)(start)
    plain = jax.jit(objective)
    gradient, central, difference = {}, {}, {}

    def slope(name: str, h: float) -> float:
        above, below = ({**start, name: start[name] + move} for move in (h, -h))
        return float(plain(above) - plain(below)) / (2 * h)

    for name, at in start.items():
        h = step * max(abs(float(at)), 1.0)
        central[name] = (4 * slope(name, h / 2) - slope(name, h)) / 3
        gradient[name] = float(slopes[name])
        size = max(abs(gradient[name]), abs(central[name]), 1e-6 * abs(float(value)), 1e-300)
        difference[name] = abs(gradient[name] - central[name]) / size
    return Checked(gradient, central, difference)


def to_free(value: Scalar, bound: Bound) -> Array:
    """Return the free number that stands for a bound one; the inverse of `to_bound`.

        positive      x = exp(u)             not_negative  x = log(1 + exp(u))
        share         x = 1 / (1 + exp(-u))  free          x = u

    Example:
      >>> round(float(to_bound(to_free(0.3, "share"), "share")), 6)
      0.3
    """
    x = jnp.asarray(value, float)
    if bound == "positive":
        return jnp.log(x)
    if bound == "not_negative":
        return x + jnp.log(-jnp.expm1(-x))
    return jnp.log(x) - jnp.log1p(-x) if bound == "share" else x


def to_bound(free: Scalar, bound: Bound) -> Array:
    """Return the bound number that a free one stands for; see `to_free`."""
    u = jnp.asarray(free)
    if bound == "positive":
        return jnp.exp(u)
    if bound == "not_negative":
        return jax.nn.softplus(u)
    return jax.nn.sigmoid(u) if bound == "share" else u


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a descent: where it was, what it found there, and the gradient's length."""

    parameters: Mapping[str, float]
    objective: float
    validation: float
    gradient: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What a descent came to: its best and last step, all of them, and why it ended."""

    best: Step
    final: Step
    history: list[Step]
    stopped: str


def tune(
    objective: Objective,
    start: Mapping[str, float],
    bounds: Mapping[str, Bound],
    *,
    gradient: Followed | None = None,
    validation: Objective | None = None,
    optimiser: str = "adam",
    learning_rate: float = 0.05,
    steps: int = 100,
    patience: int | None = None,
    mode: Mode = "auto",
    on_step: Callable[[int, Step], None] | None = None,
) -> Tuned:
    """Descend from a start along an objective's gradient, within bounds.

    The optimiser moves free numbers, whose images under smooth bijections (`to_free`) are the
    parameters. The best step is the one of smallest validation (of smallest objective where there
    is none); the descent ends early when that has not become smaller for `patience` steps, or when
    an objective or a gradient is not finite. A keyboard interrupt ends it too: what was found is
    returned.

    Args:
      objective: of a dictionary of scalars; made smaller.
      start: the parameters to begin with.
      bounds: by the same keys: "positive", "not_negative", "share" or "free".
      gradient: gives value and gradient of the objective at once, of plain numbers, in its place
        (see `stream_gradient`); neither it nor the validation is compiled then.
      validation: looked at after every step, never followed; None: the objective is.
      optimiser: one of `OPTIMISERS`, of optax.
      learning_rate: its step size; in free numbers, so relative for positive parameters.
      steps: most steps.
      patience: steps without a new best that end the descent; None: none do.
      mode: see `value_and_gradient`.
      on_step: told every step.

    Returns:
      Tuned. `stopped` is "steps", "patience", "not finite" or "interrupted".

    Raises:
      ValueError: naming the argument and what is allowed.

    Example:
      >>> found = tune(lambda p: (p["a"] - 2.0) ** 2, {"a": 1.0}, {"a": "positive"}, steps=200)
      >>> round(found.best.parameters["a"], 3)
      2.0
    """
    rule = _rule(optimiser, learning_rate)
    whole("tune", "steps", steps)
    free = _start(start, bounds)

    def bound(free: Parameters) -> Parameters:
        return {name: to_bound(value, bounds[name]) for name, value in free.items()}

    look: Callable[[Parameters], Any] | None = None
    if gradient is None:
        follow = value_and_gradient(lambda free: objective(bound(free)), len(free), mode)
        if validation is not None:
            look = jax.jit(lambda free: validation(bound(free)))
    else:
        follow = _through(gradient, bounds)
        if validation is not None:
            look = lambda free: validation(_plain(bound(free)))  # noqa: E731
    state, history, best, stopped = rule.init(free), [], 0, "steps"
    try:
        for number_of_step in range(steps + 1):
            value, slopes = follow(free)
            seen = value if look is None else look(free)
            step = Step(_plain(bound(free)), float(value), float(seen), _plain(slopes))
            history.append(step)
            if on_step is not None:
                on_step(number_of_step, step)
            if not all(map(math.isfinite, (step.objective, *step.gradient.values()))):
                stopped = "not finite"
                break
            if step.validation < history[best].validation:
                best = number_of_step
            if patience is not None and number_of_step - best >= patience:
                stopped = "patience"
                break
            updates, state = rule.update(slopes, state, free)
            free = optax.apply_updates(free, updates)
    except KeyboardInterrupt:
        if not history:
            raise
        stopped = "interrupted"
    return Tuned(best=history[best], final=history[-1], history=history, stopped=stopped)


def _through(gradient: Followed, bounds: Mapping[str, Bound]) -> Callable[..., Any]:
    """Return value and gradient in free numbers: the chain rule through the bijections."""

    def follow(free: Parameters) -> tuple[Array, Parameters]:
        pairs = {
            name: jax.jvp(lambda u, b=bounds[name]: to_bound(u, b), (u,), (jnp.ones_like(u),))
            for name, u in free.items()
        }
        value, slopes = gradient({name: float(pair[0]) for name, pair in pairs.items()})
        return jnp.asarray(value), {name: slopes[name] * pairs[name][1] for name in free}

    return follow


def _rule(optimiser: str, learning_rate: float) -> optax.GradientTransformation:
    one_of("tune", "optimiser", optimiser, OPTIMISERS)
    number("tune", "learning_rate", learning_rate, "> 0", lambda value: value > 0)
    return getattr(optax, optimiser)(learning_rate)


def _start(start: Mapping[str, float], bounds: Mapping[str, Bound]) -> Parameters:
    """Return the free numbers to begin with.

    Raises:
      ValueError: if a parameter has no bound, or is outside of it.
    """
    inside: dict[str, tuple[str, Callable[[float], bool]]] = {
        "positive": ("> 0", lambda value: value > 0),
        "not_negative": (">= 0", lambda value: value >= 0),
        "share": ("in 0..1", lambda value: 0 <= value <= 1),
        "free": ("", lambda value: True),
    }
    if not start:
        raise ValueError("tune: start = {}: allowed is one parameter or more")
    free = {}
    for name, value in start.items():
        bound = bounds.get(name)
        one_of("tune", f"bounds[{name!r}]", bound, get_args(Bound))
        number("tune", f"start[{name!r}]", float(value), *inside[str(bound)])
        if bound in ("not_negative", "share"):
            value = max(value, INSIDE)
        if bound == "share":
            value = min(value, 1 - INSIDE)
        free[name] = to_free(value, bound)  # type: ignore[arg-type]
    return free


def _plain(values: Parameters) -> dict[str, float]:
    return {name: float(np.asarray(value)) for name, value in values.items()}
