"""Axis letters, records, the contracts of encoders, policies and mixtures, status bits.

Axis letters, fixed here once for the whole package:

    N agents   n points of a series   T game horizon   W greedy window   K types
    d outputs  p features per output  k inputs         L steps a window holds

Public arrays put agents first, ``[N, ...]``. Inside the scan over time agents are the
*last* axis (``[d, N]``, ``[d, p, N]``): a stack of tiny problems, one per agent, is then
plain vector arithmetic over agents.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

from memoa_jax.arithmetic import computed_once, halved, in_order, summed

Array = jax.Array
Scalar = jax.Array | float
"""A number that may be traced: a Python float, a NumPy scalar or a 0-d array."""
Tree = Any
"""A pytree whose structure is private to the object that made it."""

_T = TypeVar("_T")


def static(**kwargs: Any) -> Any:
    """Declare a record field that is part of the program (a size, a name), not a leaf."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def record(cls: type[_T]) -> type[_T]:
    """Make a frozen dataclass that is a pytree: numbers are leaves, ``static()`` fields are not.

    Registered with its class as part of the structure. `jax.tree_util.register_dataclass` would
    do the same faster, but in jax 0.10 the structures of two such classes with equal static
    values compare equal, and a jitted function may then run one's program on the other.

    Example:
      >>> @record
      ... class Ridge:
      ...     strength: Scalar
      ...     window: int = static(default=3)
      >>> jax.tree.leaves(Ridge(strength=0.5, window=7))
      [0.5]
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    fixed = [field.name for field in fields if field.metadata.get("static")]
    data = [field.name for field in fields if field.name not in fixed]
    keys = [jax.tree_util.GetAttrKey(name) for name in data]

    def flatten(one: _T) -> tuple[list[Any], tuple[Any, ...]]:
        return [getattr(one, name) for name in data], (cls, *(getattr(one, n) for n in fixed))

    def flatten_with_keys(one: _T) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        leaves, structure = flatten(one)
        return list(zip(keys, leaves, strict=True)), structure

    def unflatten(structure: tuple[Any, ...], leaves: Iterable[Any]) -> _T:
        return cls(
            **dict(zip(data, leaves, strict=True)),
            **dict(zip(fixed, structure[1:], strict=True)),
        )

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


class Status(enum.IntFlag):
    """Numerical trouble met inside a compiled program, one bit each; 0 is none.

    A status travels as an int32 scalar and is turned into sentences by `explain`.
    """

    OK = 0
    NON_FINITE = 1
    INDEFINITE = 2
    SINGULAR = 4


_SENTENCES = {
    Status.NON_FINITE: "a prediction or a gain is infinite or not a number: the policy diverged; "
    "raise effort, shorten the window, or use dtype = float64",
    Status.INDEFINITE: "the second-order condition fails (H2 of the game is not positive "
    "definite): the gains are no equilibrium; raise effort, or tracking + consensus",
    Status.SINGULAR: "a linear system of the solver is singular to working precision: "
    "its solution is not usable; raise effort or use float64",
}


def explain(status: int | Array) -> list[str]:
    """Return one sentence per status bit that is set; an empty list when all is well.

    Example:
      >>> explain(0)
      []
      >>> explain(Status.SINGULAR)[0][:26]
      'a linear system of the sol'
    """
    return [sentence for bit, sentence in _SENTENCES.items() if int(status) & bit]


@record
class Agents:
    """A block of agents: who they are, and the seed of their private draws.

    `index` ([N] uint32) is each agent's place in the whole population, so a draw is the same
    whichever block, device or population size the agent is simulated in. `key` ([2] uint32)
    is the run's seed (see `memoa_jax.draws`). `group` ([N] int32) says of which group each agent
    is, in a run of several (None: there is one).
    """

    index: Array
    key: Array
    group: Array | None = None


@record
class Population:
    """What a block may ask of the whole population: its size, and sums over all its agents.

    `size` is the number of agents that take part, a traced scalar; `present` [N] says which of
    the block's agents those are (None: all), and no other agent enters a sum. Where a block has
    places that stand for no agent at all, `exists` [N] says which do. `own` is how many of
    them the block's sums are over (None: all `size` of them). `combine` takes a block's partial
    sums, [..., parts], to the sum over *all* blocks of the population, and `widest` its maximum to
    theirs (they add nothing where one block holds them all). These are the only way in which
    agents influence one another, so where they live is a matter of placement alone. A part is
    summed over `grain` neighbours (None: there is one part), which fixes the order of a sum.
    In a run of several groups `group` [N] says of which one each of the block's agents is, and
    `sizes` [K] how many agents of each take part.
    """

    size: Array
    present: Array | None = None
    own: Array | None = None
    exists: Array | None = None
    group: Array | None = None
    sizes: Array | None = None
    combine: Callable[[Array], Array] = static(default=in_order)
    widest: Callable[[Array], Array] = static(default=jnp.asarray)
    grain: int | None = static(default=None)

    def among(self, present: Array | None) -> Population:
        """Return the population of those present; an empty one has size 1, and sums of zero."""
        if present is None:
            return self
        if self.exists is not None:
            present = present & self.exists
        here = dataclasses.replace(self, present=present)
        count = here.total(jnp.ones(present.shape, self.size.dtype))
        sizes = None
        if self.sizes is not None and self.group is not None:
            each = jnp.arange(self.sizes.shape[0], dtype=self.group.dtype)
            sizes = here.total((each[:, None] == self.group[None]).astype(self.size.dtype))
        return dataclasses.replace(here, size=jnp.maximum(count, 1.0), sizes=sizes)

    def of_group(self, number: int) -> Population:
        """Return the population of one group alone; an empty one has size 1, and sums of zero."""
        assert self.group is not None
        assert self.sizes is not None
        mine = self.group == number
        others = self.exists if self.present is None else self.present
        mine = mine if others is None else mine & others
        own = None if self.own is None else jnp.sum(mine.astype(self.own.dtype))
        size = jnp.maximum(self.sizes[number], 1.0)
        return dataclasses.replace(self, size=size, present=mine, own=own, group=None, sizes=None)

    def only_present(self, values: Array, otherwise: float = 0.0) -> Array:
        """Replace what belongs to absent agents in a block's ``[..., N]`` array."""
        here = self.exists if self.present is None else self.present
        if here is None:
            return values
        return jnp.where(here.reshape((1,) * (values.ndim - 1) + here.shape), values, otherwise)

    def _parted(self, values: Array, otherwise: float = 0.0) -> Array:
        """Replace what belongs to absent agents, and bring [..., N] to [..., parts, grain]."""
        values = self.only_present(values, otherwise)
        if self.grain is None:
            return values[..., None, :]
        # What is computed anew inside of a sum may be rounded otherwise there.
        return computed_once(values).reshape(*values.shape[:-1], -1, self.grain)

    def total(self, values: Array) -> Array:
        """Sum a block's ``[..., N]`` array over all agents of the population."""
        parted = self._parted(values)
        return self.combine(summed(parted) if self.grain is None else halved(parted))

    def mean(self, values: Array) -> Array:
        """Average a block's ``[..., N]`` array over all agents of the population."""
        return self.total(values) / self.size

    @property
    def counted(self) -> Array:
        """How many agents a `total` is over: all, or those of one block of a stream."""
        return self.size if self.own is None else self.own

    def largest(self, values: Array) -> Array:
        """Return the maximum of a block's ``[..., N]`` array over all agents."""
        return self.widest(jnp.max(self._parted(values, -jnp.inf), axis=(-2, -1)))

    def products(self, left: Array, right: Array) -> Array:
        """Return sum_i left_i right_i' over all agents, [m, r], for ``[m, N]`` and ``[r, N]``."""
        if left.shape[0] * right.shape[0] <= 4 or self.grain is not None:
            return self.total(left[:, None] * right[None])
        # As a matrix product: ten times faster than many sums; a few are faster, and rounded less.
        left = self.only_present(left)
        product = jnp.matmul(left, right.T, precision=jax.lax.Precision.HIGHEST)
        return self.combine(product[..., None])


@record
class Sight:
    """What everybody sees at step t: y_t ([d], the last one observed), whether it is new, N.

    `sizes` [K] are the numbers of agents by group (None: there are no groups).
    """

    step: Array
    target: Array
    known: Array
    size: Array
    sizes: Array | None = None


@record
class Observation:
    """All that agents know when they choose their control at step t. Nothing later than y_t.

    `step` is t. `target` [d] is y_t and `known` says whether it was observed; when it was
    not, `target` is the last observed value. `prediction` [d, N] is what each agent predicted
    for time t before y_t was seen; `features` [d, p, N] are Z_t, zero for agents that are absent.
    `population` is that of the agents present at step t; `voters` of those that were present at
    step t-1, whose predictions for time t stand in `prediction` (an absent agent's does not
    count). `told` is what surveys of the whole population found for this step (see `Survey`), a
    tuple with an answer for each; None where the population itself can be asked for sums. `agents`
    are who the block's agents are (None where nobody said).
    """

    step: Array
    target: Array
    known: Array
    prediction: Array
    features: Array
    population: Population
    voters: Population
    told: Tree = None
    agents: Agents | None = None

    @property
    def sight(self) -> Sight:
        """The part that is the same for all agents."""
        here = self.population
        return Sight(self.step, self.target, self.known, here.size, here.sizes)


@record
class Action:
    """What agents decide at step t: their next prediction is ``base + features @ control``.

    `base` [d, N] is the value that the increment is added to, `control` [p, N] the read-out
    increment, `status` the bits of `Status` that the decision met. A policy may know the `move`
    [d, N], features @ control, and the `effort` [N], |control|^2, without computing the control.
    """

    base: Array
    control: Array
    status: Array
    move: Array | None = None
    effort: Array | None = None


@record
class Dimensions:
    """The static sizes of a run: points n, inputs k, outputs d, features p per output.

    `shared_input` says of the features that one input drives those of an output all alike.
    """

    points: int = static()
    inputs: int = static()
    outputs: int = static()
    features: int = static()
    shared_input: bool = static(default=False)


class Encoder(Protocol):
    """Turns inputs into each agent's features. Data (a pytree) plus three pure functions.

    `features` is the static number p of features per output. An encoder may have `shared_input`,
    a static bool: True where one input drives all features of an output alike, phi(A x 1' + b),
    so that they are nearly the same number when it is large; regressions then keep their precision
    (`memoa_jax.move_regression`). It changes rounding, nothing else.
    """

    @property
    def features(self) -> int:
        """Number p of features per output."""
        ...

    def parameters(self, agents: Agents, dimensions: Dimensions, dtype: Any) -> Tree:
        """Draw what stays fixed in an agent's life; per-agent leaves have agents last."""
        ...

    def init(self, parameters: Tree, agents: Agents, dimensions: Dimensions, dtype: Any) -> Tree:
        """Return the state before step 0."""
        ...

    def encode(
        self, parameters: Tree, state: Tree, agents: Agents, inputs: Array, step: Array
    ) -> tuple[Tree, Array]:
        """Return the next state and Z_t [d, p, N] for inputs x_t ([k], or [k, N] per agent)."""
        ...


class Policy(Protocol):
    """Chooses every agent's control. Data (a pytree) plus two pure functions."""

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> Tree:
        """Return the state before step 0 for a block of `num_agents`."""
        ...

    def act(self, state: Tree, observation: Observation) -> tuple[Tree, Action]:
        """Return the next state and the decision at this step."""
        ...


class Survey(Protocol):
    """A question to the whole population, asked before the agents act. Data and four functions.

    A policy that asks the population for sums can be run block by block through all time if it
    names its questions, a tuple of surveys `surveys`, each of which may use the answers of those
    before it: every survey is one pass over all blocks (`look`), and one over time (`meet`).
    What the agents look at must not depend on what they were told before.
    """

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> Tree:
        """Return a block's state before step 0."""
        ...

    def look(self, state: Tree, observation: Observation) -> tuple[Tree, Tree]:
        """Return the next state, and the block's share of what is asked: shares add up."""
        ...

    def begin(self, dimensions: Dimensions, dtype: Any) -> Tree:
        """Return what the population as a whole remembers before step 0."""
        ...

    def meet(self, common: Tree, found: Tree, sight: Sight) -> tuple[Tree, Tree]:
        """Return what the whole remembers next, and the answer that all agents are told."""
        ...


class MixtureSurvey(Protocol):
    """What the server needs of a block: as `Survey`, with the predictions for the next step.

    `look` may also hand over a `Spread`; `meet` answers with the server's output [d].
    """

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> Tree:
        """Return a block's state before step 0."""
        ...

    def look(
        self, state: Tree, observation: Observation, next_prediction: Array
    ) -> tuple[Tree, Tree]:
        """Return the next state, and the block's share of what the server needs."""
        ...

    def begin(self, dimensions: Dimensions, dtype: Any) -> Tree:
        """Return what the server remembers before step 0."""
        ...

    def meet(self, common: Tree, found: Tree, sight: Sight) -> tuple[Tree, Array]:
        """Return what the server remembers next, and its output for the next step."""
        ...


class Mixture(Protocol):
    """Fits the server's weights on the agents. Data (a pytree) plus three pure functions."""

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> Tree:
        """Return the state before step 0 (uniform weights)."""
        ...

    def mix(
        self, state: Tree, observation: Observation, next_prediction: Array
    ) -> tuple[Tree, Array]:
        """Weigh the agents by their predictions for y_t; return the output [d] for y_{t+1}."""
        ...

    def weights(self, state: Tree, population: Population) -> Array:
        """Return the block's current weights [N]."""
        ...


class Participation(Protocol):
    """Decides who takes part at each step. Data (a pytree) plus two pure functions."""

    def init(self, agents: Agents, points: int) -> Tree:
        """Return the state before step 0."""
        ...

    def present(self, state: Tree, agents: Agents, step: Array) -> tuple[Tree, Array]:
        """Return the next state and who is present at a step, bool [N]."""
        ...


def real_dtype(*values: Any) -> Any:
    """Return the floating dtype that a computation on `values` takes (at least float32)."""
    return jnp.result_type(jnp.float32, *[jnp.asarray(v).dtype for v in values])
