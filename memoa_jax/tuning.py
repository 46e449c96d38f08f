"""Tuning: gradients of a whole run, and descent along them.

A run is a differentiable function of the numbers in its parts. `objective_of` makes of a run what
is to be small, `value_and_gradient` differentiates it, `tune` descends. Parameters are a
dictionary of numbers; beside it lies a dictionary of the same keys, of what each is kept to.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import get_args

import jax
import jax.numpy as jnp
import optax

from memoa_jax.arguments import number, one_of, whole
from memoa_jax.choices import Constraint, Measure, Mode, Optimiser
from memoa_jax.descent import Descent, Objective, Parameters, Step
from memoa_jax.keeping import Keeper
from memoa_jax.simulate import Result
from memoa_jax.types import Array, Scalar

Gradient = Callable[[Parameters], tuple[Scalar, Mapping[str, Scalar]]]
"""Gives an objective's value at parameters, and its slopes by their keys."""

FORWARD_MOST = 8
"""Up to so many parameters forward mode is chosen: each costs about one more plain run, while
reverse mode costs about four however many there are, and memory for the states on the way."""
INSIDE = 1e-3
"""How far inside of its interval a parameter starts: from the end itself no step leads away."""


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


def unconstrain(value: Scalar, constraint: Constraint) -> Array:
    """Return the unconstrained number that stands for a constrained one.

    The inverse of `constrain`.

        positive       x = exp(u)             non_negative  x = log(1 + exp(u))
        unit_interval  x = 1 / (1 + exp(-u))  free          x = u

    Example:
      >>> round(float(constrain(unconstrain(0.3, "unit_interval"), "unit_interval")), 6)
      0.3
    """
    x = jnp.asarray(value, float)
    if constraint == "positive":
        return jnp.log(x)
    if constraint == "non_negative":
        return x + jnp.log(-jnp.expm1(-x))
    return jnp.log(x) - jnp.log1p(-x) if constraint == "unit_interval" else x


def constrain(unconstrained: Scalar, constraint: Constraint) -> Array:
    """Return the constrained number that an unconstrained one stands for; see `unconstrain`."""
    u = jnp.asarray(unconstrained)
    if constraint == "positive":
        return jnp.exp(u)
    if constraint == "non_negative":
        return jax.nn.softplus(u)
    return jax.nn.sigmoid(u) if constraint == "unit_interval" else u


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What a descent came to: its best and last step, all of them, and why it ended."""

    best: Step
    final: Step
    history: list[Step]
    stopped: str


def tune(
    gradient: Gradient,
    start: Mapping[str, float],
    constraints: Mapping[str, Constraint],
    *,
    validation: Objective | None = None,
    optimiser: Optimiser = "adam",
    learning_rate: float = 0.05,
    steps: int = 100,
    patience: int | None = None,
    on_step: Callable[[int, Step], None] | None = None,
    keeper: Keeper | None = None,
) -> Tuned:
    """Descend from a start along an objective's gradient, within constraints.

    The optimiser moves unconstrained numbers, whose images under smooth bijections (`unconstrain`)
    are the parameters. The best step is the one of smallest validation (of smallest objective
    where there is none); the descent ends early when that has not become smaller for `patience`
    steps, or when an objective or a gradient is not finite. A keyboard interrupt ends it too: what
    was found is returned.

    Args:
      gradient: of a dictionary of scalar arrays; see `value_and_gradient`, `stream_gradient`.
      start: the parameters to begin with.
      constraints: by the same keys.
      validation: of such a dictionary; looked at after every step, never followed.
      optimiser: of optax.
      learning_rate: its step size; in unconstrained numbers: relative for positive parameters.
      steps: most steps.
      patience: steps without a new best that end the descent; None: none do.
      on_step: told every step.
      keeper: keeps the descent, and may know where to go on from (`memoa_jax.keeping`).

    Returns:
      Tuned. `stopped` is "steps", "patience", "not finite" or "interrupted".

    Raises:
      ValueError: naming the argument and what is allowed.

    Example:
      >>> gradient = value_and_gradient(lambda p: (p["a"] - 2.0) ** 2, count=1)
      >>> found = tune(gradient, {"a": 1.0}, {"a": "positive"}, steps=200)
      >>> round(found.best.parameters["a"], 3)
      2.0
    """
    rule = _rule(optimiser, learning_rate)
    whole("tune", "steps", steps)
    descent = Descent(_through(gradient, constraints), validation, rule, _start(start, constraints))
    before = descent.resume(keeper)
    best, stopped = 0, "steps"
    try:
        for index in range(steps + 1):
            if index >= before:
                descent.advance()
                if on_step is not None:
                    on_step(index, descent.history[index])
                if keeper is not None:
                    keeper.offer(index + 1, steps + 1, descent.kept)
            step = descent.history[index]
            if not all(map(math.isfinite, (step.objective, *step.gradient.values()))):
                stopped = "not finite"
                break
            if _rank(step.validation) < _rank(descent.history[best].validation):
                best = index
            if patience is not None and index - best >= patience:
                stopped = "patience"
                break
    except KeyboardInterrupt:
        if not descent.history:
            raise
        stopped = "interrupted"
        best = min(range(len(descent.history)), key=lambda k: _rank(descent.history[k].validation))
    history = descent.history
    return Tuned(best=history[best], final=history[-1], history=history, stopped=stopped)


def _rank(value: float) -> float:
    """Return what a validation is compared by: what is no number is larger than all that is."""
    return math.inf if math.isnan(value) else value


def _through(
    gradient: Gradient, constraints: Mapping[str, Constraint]
) -> Callable[[Parameters], tuple[Parameters, Scalar, Parameters]]:
    """Return parameters, value and slopes as a function of unconstrained numbers.

    The chain rule through the bijections, df/du = df/dx dx/du with x = constrain(u). Parameters
    are arrays: numbers that move are no new program to a compiled gradient.
    """

    @jax.jit
    def images(point: Parameters) -> dict[str, tuple[Array, Array]]:
        rates = jax.value_and_grad(constrain)
        return {name: rates(u, constraints[name]) for name, u in point.items()}

    def follow(point: Parameters) -> tuple[Parameters, Scalar, Parameters]:
        found = images(point)
        parameters = {name: found[name][0] for name in point}
        value, slopes = gradient(parameters)
        return parameters, value, {name: slopes[name] * found[name][1] for name in point}

    return follow


def _rule(optimiser: Optimiser, learning_rate: float) -> optax.GradientTransformation:
    one_of("tune", "optimiser", optimiser, get_args(Optimiser))
    number("tune", "learning_rate", learning_rate, "> 0", lambda value: value > 0)
    return getattr(optax, optimiser)(learning_rate)


def _start(start: Mapping[str, float], constraints: Mapping[str, Constraint]) -> Parameters:
    """Return the unconstrained numbers to begin with.

    Raises:
      ValueError: if a parameter has no constraint, or does not keep to it.
    """
    inside: dict[Constraint, tuple[str, Callable[[float], bool]]] = {
        "positive": ("> 0", lambda value: value > 0),
        "non_negative": (">= 0", lambda value: value >= 0),
        "unit_interval": ("in 0..1", lambda value: 0 <= value <= 1),
        "free": ("", lambda value: True),
    }
    if not start:
        raise ValueError("tune: start = {}: allowed is one parameter or more")
    point = {}
    for name, value in start.items():
        one_of("tune", f"constraints[{name!r}]", constraints.get(name), get_args(Constraint))
        constraint = constraints[name]
        number("tune", f"start[{name!r}]", float(value), *inside[constraint])
        if constraint in ("non_negative", "unit_interval"):
            value = max(value, INSIDE)
        if constraint == "unit_interval":
            value = min(value, 1 - INSIDE)
        point[name] = unconstrain(value, constraint)
    return point
