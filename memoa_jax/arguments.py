"""Checks of plain arguments, all told in one way: what was wrong, and what is allowed.

Values that may be traced are judged only when they are plain Python numbers.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable


def whole(owner: str, name: str, value: object, least: int = 1, most: int | None = None) -> None:
    """Refuse anything but an integer in least..most.

    Example:
      >>> whole("greedy", "window", 0)
      Traceback (most recent call last):
      ValueError: greedy: window = 0: allowed is an integer >= 1
    """
    integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not integer or not least <= int(value) <= (math.inf if most is None else most):  # type: ignore[call-overload]
        bound = f">= {least}" if most is None else f"in {least}..{most}"
        raise ValueError(f"{owner}: {name} = {value!r}: allowed is an integer {bound}")


def number(
    owner: str,
    name: str,
    value: object,
    allowed: str = "",
    fits: Callable[[float], bool] = lambda _: True,
) -> None:
    """Refuse a plain number that is not finite or does not fit.

    Args:
      owner: the function whose argument it is.
      name: the argument.
      value: a number, or anything traced, which passes.
      allowed: the range in words, such as "> 0".
      fits: whether a finite number is in that range.

    Example:
      >>> number("ridge_mixture", "kappa", 0.0, "> 0", lambda x: x > 0)
      Traceback (most recent call last):
      ValueError: ridge_mixture: kappa = 0.0: allowed is a finite number > 0
    """
    if isinstance(value, int | float) and not (math.isfinite(value) and fits(value)):
        raise ValueError(
            f"{owner}: {name} = {value!r}: allowed is a finite number {allowed}".rstrip()
        )


def one_of(owner: str, name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse anything but one of the choices.

    Example:
      >>> one_of("decentralized", "game", "chess", ("hindsight", "forecast"))
      Traceback (most recent call last):
      ValueError: decentralized: game = 'chess': allowed is one of hindsight, forecast
    """
    if value not in choices:
        raise ValueError(f"{owner}: {name} = {value!r}: allowed is one of {', '.join(choices)}")
