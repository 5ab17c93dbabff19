"""Ranges of parts' hyperparameters: what a number must be, and what is said where it is not."""

from __future__ import annotations

import inspect
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval

from anomaly_ae.errors import ConfigError


def whole(low: int, high: int | None = None) -> Interval:
    """Whole numbers from `low` on, or from `low` to `high`."""
    if low == high:  # as an interval there is no such
        return Interval(Integral, low - 1, high, closed="right")
    return Interval(Integral, low, high, closed="left" if high is None else "both")


COUNT = whole(1)
NOT_NEGATIVE = Interval(Real, 0, None, closed="left")  # and finite, as those that follow
POSITIVE = Interval(Real, 0, None, closed="neither")
ONE_OR_MORE = Interval(Real, 1, None, closed="left")
SHARE = Interval(Real, 0, 1, closed="both")
PROPER_SHARE = Interval(Real, 0, 1, closed="neither")
NOT_ALL = Interval(Real, 0, 1, closed="left")
NOT_NONE = Interval(Real, 0, 1, closed="right")


def check_range(part: Any, interval: Interval, *names: str, optional: bool = False) -> None:
    """Refuse hyperparameters that are no number in an interval, nor, if they are `optional`, None.

    Raises
    ------
    ConfigError
        Names the part, the parameter and the interval; offers the default.
    """
    for name in names:
        value = getattr(part, name)
        if not (is_within(value, interval) or (optional and value is None)):
            default = _default(type(part), name)
            raise ConfigError(
                f"{type(part).__name__} needs {name} to be {interval}, however: {value!r}. "
                + ("Use None for the default." if default is None else f"Try {default!r}.")
            )


def check_flags(part: Any) -> None:
    """Refuse what is neither true nor false where the default is: a text such as "no" would count as true."""
    for name, parameter in inspect.signature(type(part).__init__).parameters.items():
        value = getattr(part, name, parameter.default)
        if isinstance(parameter.default, bool) and not isinstance(value, bool | np.bool_):
            raise ConfigError(
                f"{type(part).__name__} needs {name} to be true or false, however: {value!r}. Try {parameter.default}."
            )


def is_within(value: Any, interval: Interval) -> bool:
    """Whether a value is a number, and no boolean, in an interval."""
    return not isinstance(value, bool) and interval.is_satisfied_by(value)


def _default(kind: type, name: str) -> Any:
    """A parameter's default, in the class or that above it which knows the parameter."""
    signatures = (inspect.signature(each.__init__).parameters for each in kind.__mro__)  # type: ignore[misc]
    return next(parameters[name].default for parameters in signatures if name in parameters)
