"""Mean and principal directions of fit rows, taken once for all scorers that learn from the same."""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anomaly_ae.nn.core import Pass

__all__ = ["Moments", "centred_rows", "moments_of", "spread"]

ROWS = 2048  # fit rows that components are taken from, at most
WIDE = 1024  # at most, where rows are wider than that: the time it takes grows with the cube

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
    """Of the rows of a pass, at most 2,048 of them."""
    if (kept := _known.get("moments")) is not None and kept[0]() is p.batch.x:
        return kept[1]
    x = p.batch.x.flatten(1)
    x = x[spread(p, ROWS if x.shape[1] <= WIDE else WIDE)].double()
    mean = x.mean(0)
    centred = x - mean
    # the smaller of the two matrices of products has all that is to be known
    wide = len(x) < x.shape[1]
    values, vectors = torch.linalg.eigh((centred @ centred.T if wide else centred.T @ centred) / len(x))
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


def centred_rows(p: Pass, mean: Tensor) -> Tensor:
    """Rows less their mean; cells that are absent have no say, as if they were where the mean is."""
    x = p.batch.x.flatten(1) - mean
    return x if p.batch.mask is None else torch.where(p.batch.mask.flatten(1), x, 0.0)
