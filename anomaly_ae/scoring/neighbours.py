"""Scorers that compare a row with the nearest of the rows they remember."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomaly_ae.arsinh import arsinh
from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Pass, Sizes, codes, present
from anomaly_ae.ranges import COUNT, ONE_OR_MORE, POSITIVE, SHARE, check_range
from anomaly_ae.scoring.scorers import Scorer, divided_among
from anomaly_ae.scoring.search import Searching, chunks, kernels, rows_of

__all__ = ["LocalDenoiser", "Neighbours"]

SPACES = ("input", "code", "residual")
MANY, FEW = 40, 10  # neighbours of a denoiser: few suffice
DENSE = 5_000  # above so many remembered rows
TIGHTEST = 1e-3  # local spacing, in units of the median one: copies of a row are no infinitely dense place
FAR = 10.0  # standard deviations
TINY = 1e-12
OF_SPACINGS, UNEVEN = (0.1, 0.5, 0.9), 8.0  # quantiles, and how far apart the outer ones are where it is uneven
LARGEST = 64  # matrices that a kernel decomposes: larger ones are for LAPACK


class Remembering(Searching, Scorer):
    """What scorers with a memory share: whom they remember, where rows stand, and the search for the nearest.

    Up to `exact` rows all are remembered, and then calibrate rows too: each is judged without itself, as a new row is.
    """

    numbers_only = True
    searches = True
    k: int | None
    p: float
    space: str
    bend: float | None
    exact: int
    sample: int
    height: Tensor
    total: float | None = None  # of the memory: scorers with the same one share a search

    @property
    def reads_net(self) -> bool:  # type: ignore[override]
        return self.space != "input"

    def build(self, sizes: Sizes) -> None:
        check_range(self, POSITIVE, "bend", optional=True)
        check_range(self, COUNT, "k", optional=True)
        check_range(self, COUNT, "exact", "sample")
        check_range(self, ONE_OR_MORE, "p")
        if self.space not in SPACES:
            raise ConfigError(
                f"{type(self).__name__} needs a space from {SPACES}, however: {self.space!r}. Choose one."
            )
        self.register_buffer("memory", torch.zeros(1, prod(sizes.shape)))
        self.register_buffer("height", torch.ones(1))

    def learn(self, fit: Pass, validate: Pass) -> Tensor:
        if self.bend is not None:
            cells = self._cells(fit).clamp(-FAR, FAR)  # a few that are further off do not say how far all spread
            before, after = (values.std(0, unbiased=False) for values in (cells, _bent(cells / self.bend)))
            self.height = torch.where(after > TINY, before / after, self.bend).float().to(cells.dtype)
        crowd = self._places(fit)
        rows = torch.cat([crowd, self._places(validate)])
        self.keeps_all = len(rows) <= self.exact
        if not self.keeps_all:
            spaced = torch.linspace(0, len(crowd) - 1, min(self.sample, len(crowd)), device=crowd.device)
            self._settle(crowd[spaced.round().long()])
            return self(validate)
        return self._left_out(validate, rows, len(crowd))

    def remember(self, p: Pass) -> Tensor:
        if not self.keeps_all:
            return self(p)
        return self._left_out(p, torch.cat([self.memory, self._places(p)]), len(self.memory))

    def _left_out(self, p: Pass, rows: Tensor, first: int) -> Tensor:
        """Remember `rows`, and judge those of a pass, which are `rows` from `first` on, each without itself."""
        self._settle(rows)
        return self._score(p, torch.arange(first, len(rows), device=rows.device))

    def _settle(self, memory: Tensor) -> None:
        """Remember these rows."""
        self.memory = memory.float().to(memory.dtype)  # as they will be stored
        self.forget()

    def forget(self) -> None:
        super().forget()
        self.total = None

    def forward(self, p: Pass) -> Tensor:
        return self._score(p, None)

    def contributions(self, p: Pass) -> Tensor:
        return self.judged(p)[1]

    def judged(self, p: Pass) -> tuple[Tensor, Tensor]:
        if self.space == "code":
            return self(p), super().contributions(p)
        score, off = self._score_and_off(p)
        cells = off[:, : p.batch.x[0].numel()].abs().pow(self.p).view_as(p.batch.x)
        return score, divided_among(p, score, cells)

    def _score(self, p: Pass, own: Tensor | None) -> Tensor:
        """Scores `(n,)`; `own` says which of the memory the rows are themselves."""
        raise NotImplementedError

    def _score_and_off(self, p: Pass) -> tuple[Tensor, Tensor]:
        """Scores, and what rows lost by not being where their neighbours are: `(n, width)`."""
        raise NotImplementedError

    def _places(self, p: Pass) -> Tensor:
        """Where rows stand: `(n, width)`; scorers that see them at the same places share these."""
        key = "places", self.space, self.bend
        if key not in p.notes:
            p.notes[key] = self._placed(self._cells(p))
        return p.notes[key]

    def _placed(self, cells: Tensor) -> Tensor:
        places = cells if self.bend is None else self.height * _bent(cells / self.bend)
        return places.float().to(places.dtype)  # as the memory is stored: known rows are known to the bit

    def _cells(self, p: Pass) -> Tensor:
        """What places are made of."""
        if self.space == "code":
            return codes(p.levels).flatten(1)
        x = p.batch.x.flatten(1)
        return x if self.space == "input" else torch.cat([x, present(p, p.batch.x - p.px.mean).flatten(1)], dim=1)

    def _nearest(self, p: Pass, own: Tensor | None) -> tuple[Tensor, Tensor, Any]:
        """Distances to the nearest, which they are, and what kernels read them from, if any do.

        One search serves all scorers that remember the same.
        """
        k, memory = self._count(len(self.memory)), self.memory
        if self.total is None:
            self.total = float(memory.double().sum())
        key = self.p, self.space, self.bend, memory.shape, self.total, own is None
        if key not in p.notes or p.notes[key][0].shape[1] < min(k, len(memory) - 1):
            search = self.searched(p.batch.x, self.p, k)
            p.notes[key] = *search(self._places(p), k, own), search.packed
        distance, which, packed = p.notes[key]
        return distance[:, :k], which[:, :k], packed

    def _count(self, remembered: int) -> int:
        """How many neighbours to look for."""
        return self.k or 0


class Neighbours(Remembering):
    r"""Mean distance to the `k` nearest of the rows that the detector remembers, relative to how dense these lie.

    .. math:: s(x) = m_k(x) \Big/ \Big(\frac1k \sum_{j=1}^k m_k(x_{(j)})\Big)^{\gamma}, \quad
        m_k(x) = \frac1k \sum_{j=1}^k \lVert u(x) - u(x_{(j)}) \rVert_p

    with :math:`u = h \operatorname{arsinh}(x / b)` the row, bent so that no cell that is far off drowns the others, and
    with `h` such that each spreads as before; or so its code; or so the row beside its residual. At :math:`\gamma = 0`
    it is the mean distance, at 1 nearly the local outlier factor; between them, a row is strange that lies far off, and
    stranger beside a dense crowd. A row far from everything seen has a score that grows with the distance without
    bound: what nets alone do not promise. The memory holds these rows: it is stored with the model.

    **Shape**: a pass over `n` rows to `(n,)`, each 0 or more.

    Parameters
    ----------
    k : int >= 1, default=5
        How many neighbours.
    p : float >= 1, default=2
        Norm: 2 is Euclid's, 1 is the sum of absolute differences, which one strange column sways less.
    correction : float in [0, 1], default=0
        :math:`\gamma`, how far the local density counts.
    space : {"input", "code", "residual"}, default="input"
        Where distances are taken; "residual" is the row and its residual side by side.
    bend : float > 0 or None, default=4
        :math:`b`, in units of cells (standard deviations of columns) or codes: from where on they lag behind. `None`
        never bends.
    exact : int >= 1, default=20000
        Up to so many fit and validate rows all are remembered. Of a table, no scorer sees more than 16,384 fit and
        8,192 validate rows.
    sample : int >= 1, default=20000
        Above, as many of the fit rows, if there are as many, which come in random order (windows: evenly spaced in
        time).

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Angiulli and Pizzuti (2002), Fast outlier detection in high dimensional spaces, PKDD;
    Breunig, Kriegel, Ng and Sander (2000), LOF: identifying density-based local outliers, SIGMOD.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, Neighbours
    >>> AutoencoderDetector(scorer=Neighbours(k=1)).scorer
    Neighbours(k=1)
    """

    spacing: Tensor

    def __init__(
        self,
        k: int = 5,
        p: float = 2.0,
        correction: float = 0.0,
        space: str = "input",
        bend: float | None = 4.0,
        exact: int = 20_000,
        sample: int = 20_000,
    ) -> None:
        self.k = k
        self.p = p
        self.correction = correction
        self.space = space
        self.bend = bend
        self.exact = exact
        self.sample = sample

    def build(self, sizes: Sizes) -> None:
        super().build(sizes)
        check_range(self, COUNT, "k")
        check_range(self, SHARE, "correction")
        self.register_buffer("spacing", torch.ones(1))

    def _settle(self, memory: Tensor) -> None:
        super()._settle(memory)
        if self.correction:
            k = self._count(len(memory))
            search = self.searched(memory, self.p, k)
            own = search(search.memory, k, search.everyone)[0].mean(1)
            self.spacing = own.clamp(min=max(TINY, TIGHTEST * float(own.median())))

    def insists(self) -> bool:
        """Where rows lie much denser in some places than in others, and distances are seen beside that.

        A cell that is far off where a machine idles is none where it runs.
        """
        low, middle, high = np.quantile(self.spacing.numpy(force=True), OF_SPACINGS)
        of_copies = max(TINY, TIGHTEST * middle)
        return bool(self.correction == 1 and low > 1.01 * of_copies and high > UNEVEN * low)

    def _score(self, p: Pass, own: Tensor | None) -> Tensor:
        distance, which, _ = self._nearest(p, own)
        score = distance.mean(1)
        return score / self.spacing[which].mean(1).to(score.dtype) ** self.correction if self.correction else score

    def _score_and_off(self, p: Pass) -> tuple[Tensor, Tensor]:
        score, which, memory = self._score(p, None), self._nearest(p, None)[1], self.memory.to(p.batch.x.dtype)
        return score, means(memory, which) - self._places(p)


class LocalDenoiser(Remembering):
    r"""Residual of the linear denoising autoencoder of a row's neighbourhood, in closed form.

    .. math:: s(x) = \lVert r \rVert, \quad r = \lambda (S + \lambda I)^{-1} (u(x) - \mu), \quad
        \lambda = \text{ridge} \cdot \mathrm{tr}(S) / k

    with :math:`u(x)` the row, bent as by `Neighbours`, :math:`\mu` the mean of the `k` nearest remembered ones and
    :math:`S` their scatter about it: what the best linear map from noisy neighbours to clean ones leaves of the row.
    Directions in which the neighbours spread cost little, those in which they do not cost the whole distance: a curved
    surface is known by its tangents. Far away from all rows the score grows with the distance without bound. The memory
    holds these rows: it is stored with the model.

    **Shape**: a pass over `n` rows to `(n,)`, each 0 or more.

    Parameters
    ----------
    k : int >= 1 or None, default=None
        How many neighbours. `None` is 40, or 10 where more than 5,000 rows are remembered, which lie so dense that
        their tangents are known by few, in a quarter of the time.
    ridge : float > 0, default=1
        :math:`\lambda` in units of the neighbours' mean square distance from their mean. The denoiser expects noise of
        variance :math:`\lambda / k` in each direction.
    space, bend, exact, sample
        As of `Neighbours`.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Alain and Bengio (2014), What regularized auto-encoders learn from the data-generating distribution,
    arXiv:1211.4246; Roweis and Saul (2000), Nonlinear dimensionality reduction by locally linear embedding,
    Science 290.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, LocalDenoiser
    >>> AutoencoderDetector(scorer=LocalDenoiser(k=20)).scorer
    LocalDenoiser(k=20)
    """

    p = 2.0

    def __init__(
        self,
        k: int | None = None,
        ridge: float = 1.0,
        space: str = "input",
        bend: float | None = 4.0,
        exact: int = 20_000,
        sample: int = 20_000,
    ) -> None:
        self.k = k
        self.ridge = ridge
        self.space = space
        self.bend = bend
        self.exact = exact
        self.sample = sample

    def build(self, sizes: Sizes) -> None:
        super().build(sizes)
        check_range(self, POSITIVE, "ridge")

    def _count(self, remembered: int) -> int:
        return (FEW if remembered > DENSE else MANY) if self.k is None else self.k

    def _score(self, p: Pass, own: Tensor | None) -> Tensor:
        return self._off(p, own).norm(dim=1)

    def _score_and_off(self, p: Pass) -> tuple[Tensor, Tensor]:
        off = self._off(p, None)
        return off.norm(dim=1), off

    def _off(self, p: Pass, own: Tensor | None) -> Tensor:
        """What is left of rows by the denoiser of their neighbours."""
        places, (_, which, packed) = self._places(p), self._nearest(p, own)
        if packed is not None and min(which.shape[1], places.shape[1]) <= LARGEST:
            rows = places.double().contiguous()
            off = torch.empty_like(rows)
            kernels().residuals(packed, which.contiguous().numpy(), rows.numpy(), float(self.ridge), off.numpy())
            return off.to(places.dtype)
        memory = self.memory.to(places.dtype)
        cells = which.shape[1] * places.shape[1]
        pairs = zip(chunks(places, cells), chunks(which, cells), strict=True)
        return torch.cat([self._residual(rows_of(memory, near), x) for x, near in pairs])

    def _residual(self, near: Tensor, x: Tensor) -> Tensor:
        """What the denoisers of neighbours `(n, k, width)` leave of rows `(n, width)`."""
        k, width = near.shape[1:]
        centre = near.mean(1, keepdim=True)
        near, x = near.sub_(centre), x - centre[:, 0]
        turned = near.transpose(1, 2)
        small = turned @ near if width <= k else near @ turned  # the smaller of scatter and Gram matrix
        traces = small.diagonal(dim1=1, dim2=2)
        spread = self.ridge * traces.sum(1, keepdim=True) / k + TINY
        traces.add_(spread)
        factor = torch.linalg.cholesky_ex(small).L
        if width <= k:
            return spread * torch.cholesky_solve(x[:, :, None], factor)[:, :, 0]
        along = torch.cholesky_solve(near @ x[:, :, None], factor)
        return x - (near * along).sum(1)  # several times as quick as a batch of products with vectors


def _bent(cells: Tensor) -> Tensor:
    """Inverse hyperbolic sines, which torch takes of one number after the other; cells are lost."""
    if cells.device.type != "cpu":
        return cells.asinh()
    return torch.from_numpy(arsinh(np.ascontiguousarray(cells.numpy())))


def means(memory: Tensor, which: Tensor) -> Tensor:
    """Means of the rows of `memory` that `which` `(n, k)` names: `(n, width)`."""
    return torch.cat([rows_of(memory, some).mean(1) for some in chunks(which, which.shape[1] * memory.shape[1])])
