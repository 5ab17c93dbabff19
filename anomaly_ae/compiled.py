"""How loops are compiled, and when that pays: a table of few cells is done before numba has been imported."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, TypeVar, cast

__all__ = ["compiled", "exactly", "pays", "robust"]

Function = TypeVar("Function", bound=Callable[..., Any])
MANY = 50_000  # cells at a time
PARTS = 2  # functions, at most, that a loop is made of


def pays(cells: int) -> bool:
    """Whether so many cells at a time are worth the wait for a compiler, or for what it has kept."""
    return cells >= MANY


def compiled(function: Function, any_order: bool = True) -> Function:
    """Compile at the first call, without the interpreter's lock; keep it if there is a place. Sums in any order."""
    import numba

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    if any_order:
        options["fastmath"] = {"reassoc", "contract", "nsz"}
    try:
        kept: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written to
        kept = numba.njit(**options)(function)
    return kept


def exactly(function: Function) -> Function:
    """Compile what is to be as numpy and torch have it, to the bit."""
    return robust(compiled(function, any_order=False))


def robust(loop: Function) -> Function:
    """A loop that does its work as well where there is no room to keep what was compiled."""

    @wraps(loop)
    def run(*args: Any) -> None:
        for _ in range(PARTS):
            with suppress(OSError):  # compiled it is, and the next call does not try to keep it
                return loop(*args)
        return loop(*args)

    return cast(Function, run)
