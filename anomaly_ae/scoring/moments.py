"""Mean and principal directions of fit rows, taken once for all scorers that learn from the same."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from anomaly_ae.nn.core import Pass
from anomaly_ae.overlap import one_thread

__all__ = ["Moments", "centred_rows", "moments_of", "spread"]

ROWS = ((256, 16384), (1024, 2048))  # of so many columns at most, fit rows that components are taken from
FEWEST = 1024  # of more columns: the time it takes grows with the cube
CELLS = 2**22  # of rows whose absent cells are filled together: 32 MiB


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
    kept: tuple[Tensor, Moments] | None = p.notes.get("moments")
    if kept is not None and kept[0] is p.batch.x:
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
    p.notes["moments"] = p.batch.x, found
    return found


def spread(p: Pass, most: int) -> Tensor:
    """Which of a pass's fit rows to learn from, evenly, where in the end `most` are learned from.

    Of a `share` of all rows as many fewer: what is held out is to be as far from what was learned as new rows will be.
    """
    rows = len(p.batch.x)
    return torch.linspace(0, rows - 1, max(1, min(rows, round(most * p.share))), device=p.batch.x.device).round().long()


def centred_rows(p: Pass, mean: Tensor, axes: Tensor, weights: Tensor, rest: Tensor) -> Tensor:
    r"""Rows less their mean; cells that are absent are what the others let expect: they have no say.

    Those under which :math:`x^T M x` is least, :math:`M_{aa} x_a = -M_{ap} x_p`, with `M` the `weights` of orthonormal
    `axes` (rows) and, of what is off them, `rest`. A row's are its own, whatever rows come with it.
    """
    x = p.batch.x.flatten(1) - mean
    if p.batch.mask is None:
        return x
    absent = ~p.batch.mask.flatten(1)
    x[absent] = 0
    v, w, a = axes.T.double(), weights.double(), rest.double()
    least = torch.minimum(w.min(), a) if len(w) else a  # of the eigenvalues of M, and so of any block of it
    missing = absent.sum(1)
    with one_thread():  # of many small systems, each is too small for more
        for m in missing[missing > 0].unique().tolist():
            for some in (missing == m).nonzero().flatten().split(max(1, CELLS // (m * v.shape[1] + m * m + 1))):
                cells = absent[some].nonzero()[:, 1].view(len(some), m)
                va = v[cells]
                pulled = (w - a) * (x[some].double() @ v)
                block = (va * (w - a)) @ va.mT
                block.diagonal(dim1=1, dim2=2).add_(a)
                filled = _solved(block, -(va @ pulled[:, :, None]), least)
                x[some] = x[some].scatter(1, cells, filled[:, :, 0].to(x.dtype))
    return x


def _solved(block: Tensor, right: Tensor, least: Tensor) -> Tensor:
    """Solutions of symmetric systems with eigenvalues of `least` or more, where rounding may have made some smaller."""
    factor, failed = torch.linalg.cholesky_ex(block)
    solved = torch.cholesky_solve(right, factor)
    for one in failed.nonzero().flatten().tolist():
        values, vectors = torch.linalg.eigh(block[one])
        solved[one] = vectors @ ((vectors.T @ right[one]) / values.clamp(min=least)[:, None])
    return solved
