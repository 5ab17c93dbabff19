"""Mean and principal directions of fit rows, taken once for all scorers that learn from the same."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anomaly_ae.nn.core import Pass
from anomaly_ae.overlap import one_thread

__all__ = ["Moments", "centred_rows", "moments_of", "spread"]

ROWS = ((256, 16384), (1024, 2048))  # of so many columns at most, fit rows that components are taken from
FEWEST = 1024  # of more columns: the time it takes grows with the cube
FILLS, FILLED = 60, 1e-12  # steps by which absent cells are filled, at most, and of what there was to do, what is left

_known: dict[str, Any] = {}  # the moments that were taken last, for scorers that learn from the same rows


class Moments(NamedTuple):
    """Mean of fit rows, and the variances of what they do around it, largest first."""

    mean: Tensor
    variances: Tensor
    turned: Tensor  # columns: directions, or what they are made of
    centred: Tensor | None  # rows that they are made of, where these are fewer than columns

    def directions(self, most: int | None = None) -> Tensor:
        """Those of the largest variances, as rows."""
        some = self.turned[:, :most]
        if self.centred is None:
            return some.T
        return some.T @ self.centred / (self.variances[:most, None] * len(self.centred)).sqrt()


def moments_of(p: Pass) -> Moments:
    """Of the rows of a pass: all, or many that are spread evenly.

    Of windows over a cycle without much noise those that are left out may be all that show some part of it.
    """
    if (kept := _known.get("moments")) is not None and kept[0]() is p.batch.x:
        return kept[1]
    x = p.batch.x.flatten(1)
    x = x[spread(p, next((rows for width, rows in ROWS if x.shape[1] <= width), FEWEST))].double()
    mean = x.mean(0)
    centred = x - mean
    # the smaller of the two matrices of products has all that is to be known
    wide = len(x) < x.shape[1]
    products = (centred @ centred.T if wide else centred.T @ centred) / len(x)
    with one_thread():  # several that share their cores with other work wait for each other ten times as long
        values, vectors = torch.linalg.eigh(products)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    if wide:
        some = values > 1e-12 * values[0].clamp(min=1e-300)
        values, vectors = values[some], vectors[:, some]
    found = Moments(mean, values, vectors, centred if wide else None)
    _known["moments"] = weakref.ref(p.batch.x), found
    return found


def spread(p: Pass, most: int) -> Tensor:
    """Which of a pass's fit rows to learn from, evenly, where in the end `most` are learned from.

    Of a `share` of all rows as many fewer: what is held out is to be as far from what was learned as new rows will be.
    """
    rows = len(p.batch.x)
    return torch.linspace(0, rows - 1, max(1, min(rows, round(most * p.share))), device=p.batch.x.device).round().long()


def centred_rows(
    p: Pass, mean: Tensor, pull: Callable[[Tensor], Tensor], ease: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    r"""Rows less their mean; cells that are absent are what the others let expect: they have no say.

    Those under which :math:`x^T M x` is least, where `pull` says :math:`M x`: by conjugate gradients, which `ease`
    helps by what is nearly :math:`M^{-1} x`. A row's are its own, whatever rows come with it.
    """
    x = p.batch.x.flatten(1) - mean
    if p.batch.mask is None:
        return x
    mask = p.batch.mask.flatten(1)
    gappy = ~mask.all(1)
    x[gappy] = _filled(torch.where(mask, x, 0.0)[gappy], ~mask[gappy], pull, ease or (lambda left: left))
    return x


def _filled(x: Tensor, absent: Tensor, pull: Callable[[Tensor], Tensor], ease: Callable[[Tensor], Tensor]) -> Tensor:
    left = torch.where(absent, -pull(x), 0.0)
    eased = torch.where(absent, ease(left), 0.0)
    step, size = eased, (left * eased).sum(1)
    enough = FILLED * size
    for _ in range(FILLS):
        if not (size > enough).any():
            break
        pulled = torch.where(absent, pull(step), 0.0)
        bend = (step * pulled).sum(1)
        far = torch.where((size > enough) & (bend > 0), size / bend, 0.0)[:, None]  # a row that is done stays as it is
        x, left = x + far * step, left - far * pulled
        eased = torch.where(absent, ease(left), 0.0)
        size, before = (left * eased).sum(1), size
        step = eased + torch.where(before > enough, size / before, 0.0)[:, None] * step
    return x
