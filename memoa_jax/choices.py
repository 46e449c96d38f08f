"""Names that users choose among, in Python as in a config; nothing is imported here."""

from __future__ import annotations

from typing import Literal, get_args

Metric = Literal[
    "server_rmse",
    "mean_field_rmse",
    "mean_agent_rmse",
    "worst_agent_rmse",
    "best_agent_rmse",
    "mean_agent_cost",
    "worst_agent_cost",
    "best_agent_cost",
    "agent_cost_variance",
    "mean_agent_effort",
]
METRICS: tuple[Metric, ...] = get_args(Metric)
"""Measured per policy. Costs are summed squared errors over the scored steps, effort apart."""

Measure = Literal["server_rmse", "mean_agent_cost", "worst_agent_cost"]
"""What of a run can be tuned; costs are per scored step."""
Mode = Literal["auto", "forward", "reverse"]
"""How a gradient is taken."""
Optimiser = Literal["adam", "adabelief", "lion", "nadam", "rmsprop", "sgd"]
"""Optimisers of optax that need nothing but a learning rate."""
Constraint = Literal["positive", "non_negative", "unit_interval", "free"]
"""What a tuned number is kept to."""
Containment = Literal["report", "exclude", "clip"]
"""What is done with agents that run away; in every case they are told and counted."""
Difference = Literal["moments", "noise", "encoders", "delays", "costs", "everything"]
DIFFERENCES: tuple[Difference, ...] = get_args(Difference)
"""In what the agents of a robustness study may differ."""
