"""Simulator of very large populations of online prediction agents, in JAX.

Importing the package loads neither JAX nor NumPy: a public name is imported from its module
when it is first used. Series generators live in `memoa_jax.series`; every other submodule is
reached as an attribute too (`memoa_jax.policies`, ...).

Example:
  >>> import memoa_jax
  >>> memoa_jax.GameCost(consensus=4.0).consensus
  4.0
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from memoa_jax._version import __version__

if TYPE_CHECKING:
    from memoa_jax import series
    from memoa_jax.analysis import (
        best_response_costs,
        convergence_rate,
        expected_costs,
        exploitability,
        price_of_anarchy,
    )
    from memoa_jax.analysis_types import (
        best_response_costs_types,
        expected_costs_types,
        exploitability_types,
        price_of_anarchy_types,
    )
    from memoa_jax.cost_spread import CostSpread
    from memoa_jax.encoder_groups import grouped
    from memoa_jax.encoders import echo_state, given_features, random_features, views
    from memoa_jax.experts import (
        bernstein_aggregation,
        exponential_weights,
        fixed_share,
        polynomial_potentials,
    )
    from memoa_jax.game import FeatureMoments, GameCost, InitialLaw
    from memoa_jax.information import offline_gains
    from memoa_jax.mixture import mixture_weights, ridge_mixture, uniform_mixture
    from memoa_jax.monte_carlo import sample_game
    from memoa_jax.nash import Equilibrium, FeedbackGains, solve_nash, solve_team
    from memoa_jax.nash_dense import solve_heterogeneous, solve_nash_dense
    from memoa_jax.nash_types import solve_nash_types, solve_team_types
    from memoa_jax.policies import (
        affine,
        affine_nash,
        centralized,
        decentralized,
        greedy,
        heterogeneous,
    )
    from memoa_jax.recording import Record
    from memoa_jax.responses import solve_heterogeneous_realised
    from memoa_jax.scaling import standardise
    from memoa_jax.series import Series
    from memoa_jax.simulate import Result, simulate

__all__ = [
    "CostSpread",
    "Equilibrium",
    "FeatureMoments",
    "FeedbackGains",
    "GameCost",
    "InitialLaw",
    "Record",
    "Result",
    "Series",
    "__version__",
    "affine",
    "affine_nash",
    "bernstein_aggregation",
    "best_response_costs",
    "best_response_costs_types",
    "centralized",
    "convergence_rate",
    "decentralized",
    "echo_state",
    "expected_costs",
    "expected_costs_types",
    "exploitability",
    "exploitability_types",
    "exponential_weights",
    "fixed_share",
    "given_features",
    "greedy",
    "grouped",
    "heterogeneous",
    "mixture_weights",
    "offline_gains",
    "polynomial_potentials",
    "price_of_anarchy",
    "price_of_anarchy_types",
    "random_features",
    "ridge_mixture",
    "sample_game",
    "series",
    "simulate",
    "solve_heterogeneous",
    "solve_heterogeneous_realised",
    "solve_nash",
    "solve_nash_dense",
    "solve_nash_types",
    "solve_team",
    "solve_team_types",
    "standardise",
    "uniform_mixture",
    "views",
]

_HOME = {
    name: module
    for module, names in {
        "analysis": "best_response_costs convergence_rate expected_costs exploitability "
        "price_of_anarchy",
        "analysis_types": "best_response_costs_types expected_costs_types exploitability_types "
        "price_of_anarchy_types",
        "cost_spread": "CostSpread",
        "encoder_groups": "grouped",
        "encoders": "echo_state given_features random_features views",
        "experts": "bernstein_aggregation exponential_weights fixed_share polynomial_potentials",
        "game": "FeatureMoments GameCost InitialLaw",
        "information": "offline_gains",
        "mixture": "mixture_weights ridge_mixture uniform_mixture",
        "monte_carlo": "sample_game",
        "nash": "Equilibrium FeedbackGains solve_nash solve_team",
        "nash_dense": "solve_heterogeneous solve_nash_dense",
        "nash_types": "solve_nash_types solve_team_types",
        "policies": "affine affine_nash centralized decentralized greedy heterogeneous",
        "responses": "solve_heterogeneous_realised",
        "scaling": "standardise",
        "series": "Series",
        "recording": "Record",
        "simulate": "Result simulate",
    }.items()
    for name in names.split()
}
"""The submodule that each public name lives in."""


def __getattr__(name: str) -> Any:
    """Import a public name, or a submodule, on first use."""
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        setattr(sys.modules[__name__], name, value)
        return value
    # No other name may trigger an import: Python and tools probe packages for many.
    if name.isidentifier() and not name.startswith("_"):
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


class _Package(ModuleType):
    """Keeps a public name that is also a submodule's (`simulate`) the public name.

    After importing a submodule the import system binds it on the package; that would turn
    `memoa_jax.simulate` from the function into the module for everyone.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _HOME:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
