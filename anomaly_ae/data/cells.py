"""Numeric cells: numbers less a mean, in units of a scale, and bent where they are far off."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_ae.arsinh import arsinh
from anomaly_ae.compiled import pays

__all__ = ["HUGE", "MOMENTS", "bent", "cells_and_odd", "cells_of", "moments_of"]

Array = NDArray[np.float64]
Cell = NDArray[np.floating[Any]]
Type = type[np.floating[Any]]
MOMENTS = ("mean", "scale", "height", "low", "high")  # of numeric cells; low and high are cells themselves
HUGE = {np.float32: 1e30, np.float64: 1e300}  # within what a number of each type can be
SMALLEST = 1e-300  # scale whose inverse is finite
FARTHEST = 1e16  # of cells that are not bent: sums of their squares are still finite in float32


def bent(x: Cell, bend: float | None) -> Any:
    """Numbers that lag behind from about `bend` on; as they are where it is `None`."""
    return x if bend is None else bend * np.arcsinh(x / bend)


def moments_of(raw: Array, rule: Any) -> dict[str, Array]:
    """`MOMENTS` of each numeric cell, `(m,)` each."""
    mean, scale, height = np.zeros(raw.shape[1]), np.ones(raw.shape[1]), np.ones(raw.shape[1])
    with np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns without a value
        if rule.standardize:
            usual = _usual(raw)
            mean, scale = np.nan_to_num([np.nanmean(usual, axis=0), np.nanstd(usual, axis=0)], posinf=np.inf)
            varies = scale > 10 * np.finfo(np.float64).eps * np.abs(mean)  # by more than rounding
            scale = np.where(varies, scale, 1.0)
            if rule.bend is not None:
                scale, height = rule.bend * scale, rule.bend * height
                spread = np.nanstd(cells_of(usual, mean, scale, height, bends=True), axis=0)
                height = np.divide(height, spread, out=height, where=varies)
        z = cells_of(raw, mean, scale, height, bends=rule.bends is not None)
    ends = (np.nan_to_num(of(z, axis=0)) for of in (np.fmin.reduce, np.fmax.reduce))
    return dict(zip(MOMENTS, (mean, scale, height, *ends), strict=True))


def _usual(raw: Array) -> Array:
    """Columns as they are; those whose few values far out would more than triple the deviation without their tails."""
    # values that occur: between the bulk and one outlier lies nothing; a bulk of one value spreads by rounding alone
    tails = np.nanquantile(raw, 0.01, axis=0, method="higher"), np.nanquantile(raw, 0.99, axis=0, method="lower")
    inner = np.clip(raw, *tails)
    tripled = ~(np.nanstd(raw, axis=0) <= 3 * np.nanstd(inner, axis=0))
    return np.where((tails[0] < tails[1]) & tripled, inner, raw)


def cells_of(raw: Array, mean: Array, scale: Array, height: Array, *, bends: bool, dtype: Type = np.float64) -> Any:
    """Numeric cells, from units of their columns."""
    z = _standardized(raw, mean, scale, bends, dtype)
    return np.multiply(z, height.astype(dtype), out=z)


def cells_and_odd(raw: Array, moments: Sequence[Array], *, bends: bool, dtype: Type) -> tuple[Any, NDArray[np.intp]]:
    """Numeric cells, and the rows that have one outside the ends of its column, or an absent one."""
    mean, scale, *others = moments
    z = _standardized(raw, mean, scale, bends, dtype)
    height, low, high = (each.astype(dtype) for each in others)
    if not pays(z.size):
        z *= height
        return z, np.flatnonzero(~((z >= low) & (z <= high)).all(axis=1))
    from anomaly_ae import loops

    odd = np.empty(len(z), dtype=bool)
    loops.raised(z, height, low, high, odd)
    return z, np.flatnonzero(odd)


def _standardized(raw: Array, mean: Array, scale: Array, bends: bool, dtype: Type) -> Any:
    z, end = np.empty(raw.shape, dtype), HUGE[dtype] if bends else FARTHEST
    rate = 1 / np.maximum(scale, SMALLEST)  # to divide each cell would take three times as long
    if pays(raw.size):
        from anomaly_ae import loops

        loops.standardized(raw, mean, rate, end, z)
    else:
        with np.errstate(over="ignore"):  # in float64, for dates
            z[:] = np.clip((raw - mean) * rate, -end, end)
    return arsinh(z) if bends else z
