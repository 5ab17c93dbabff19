"""How loops are compiled, and when that pays: a table of few cells is done before numba has been imported."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, TypeVar, cast

__all__ = ["compiled", "pays", "robust"]

Function = TypeVar("Function", bound=Callable[..., Any])
MANY = 50_000  # cells at a time
PARTS = 2  # functions, at most, that a loop is made of


def pays(cells: int) -> bool:
    """Whether so many cells at a time are worth the wait for a compiler, or for what it has kept."""
    return cells >= MANY


def compiled(function: Function) -> Function:
    """Compile at the first call, without the interpreter's lock, for sums in any order; keep it if there is a place."""
    import numba

    options: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy"}
    try:
        kept: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written to
        kept = numba.njit(**options)(function)
    return kept


def robust(loop: Function) -> Function:
    """A loop that does its work as well where there is no room to keep what was compiled."""

    @wraps(loop)
    def run(*args: Any) -> None:
        for _ in range(PARTS):
            with suppress(OSError):  # compiled it is, and the next call does not try to keep it
                return loop(*args)
        return loop(*args)

    return cast(Function, run)
