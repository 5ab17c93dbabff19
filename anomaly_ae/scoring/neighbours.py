"""Scorers that compare a row with the nearest of the rows they remember."""

from __future__ import annotations

from math import inf, prod
from numbers import Integral

import torch
from torch import Tensor

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Pass, Sizes
from anomaly_ae.scoring.scorers import Scorer, divided, present

__all__ = ["LocalDenoiser", "Neighbours"]

SPACES = ("input", "code", "residual")
CELLS = 4_000_000  # held at a time, of distances or of neighbours' cells
SPARE = 4  # candidates beyond k, so that rounding in the search decides nothing
TIGHTEST = 1e-3  # local spacing, in units of the median one: copies of a row are no infinitely dense place
TINY = 1e-12


class _Remembering(Scorer):
    """What scorers with a memory share: whom they remember, where rows stand, and the search for the nearest.

    Up to `exact` rows all are remembered, and then calibrate rows too: each is judged without itself, as a new row is.
    """

    numbers_only = True
    k: int
    p: float
    space: str
    exact: int
    sample: int
    memory: Tensor

    @property
    def reads_net(self) -> bool:  # type: ignore[override]
        return self.space != "input"

    def build(self, sizes: Sizes) -> None:
        for name in ("k", "p", "exact", "sample"):
            if not 1 <= getattr(self, name) < inf or (name != "p" and not isinstance(getattr(self, name), Integral)):
                raise ConfigError(
                    f"{type(self).__name__} needs {name} of 1 or more, however: {getattr(self, name)!r}. Try 1."
                )
        if self.space not in SPACES:
            raise ConfigError(
                f"{type(self).__name__} needs a space from {SPACES}, however: {self.space!r}. Choose one."
            )
        self.register_buffer("memory", torch.zeros(1, prod(sizes.shape)))

    def learn(self, fit: Pass, validate: Pass) -> Tensor:
        crowd = self._places(fit)
        rows = torch.cat([crowd, self._places(validate)])
        self.keeps_all = len(rows) <= self.exact
        if not self.keeps_all:
            spaced = torch.linspace(0, len(crowd) - 1, min(self.sample, len(crowd)), device=crowd.device)
            self._settle(crowd[spaced.round().long()], crowd)
            return self(validate)
        return self._left_out(validate, rows, len(crowd))

    def remember(self, p: Pass) -> Tensor:
        if not self.keeps_all:
            return self(p)
        return self._left_out(p, torch.cat([self.memory, self._places(p)]), len(self.memory))

    def _left_out(self, p: Pass, rows: Tensor, first: int) -> Tensor:
        """Remember `rows`, and judge those of a pass, which are `rows` from `first` on, each without itself."""
        self._settle(rows.float().to(rows.dtype), None)  # as they will be stored
        return self._score(p, torch.arange(first, len(rows), device=rows.device))

    def _settle(self, memory: Tensor, crowd: Tensor | None) -> None:
        """Remember these rows, which were drawn from a `crowd` if there is one."""
        self.memory = memory

    def forward(self, p: Pass) -> Tensor:
        return self._score(p, None)

    def contributions(self, p: Pass) -> Tensor:
        return self.judged(p)[1]

    def judged(self, p: Pass) -> tuple[Tensor, Tensor]:
        if self.space == "code":
            return self(p), super().contributions(p)
        score, off = self._score_and_off(p)
        cells = off[:, : p.batch.x[0].numel()].abs().pow(self.p).view_as(p.batch.x)
        return score, divided(score, cells)

    def _score(self, p: Pass, own: Tensor | None) -> Tensor:
        """Scores `(n,)`; `own` says which of the memory the rows are themselves."""
        raise TypeError

    def _score_and_off(self, p: Pass) -> tuple[Tensor, Tensor]:
        """Scores, and what rows lost by not being where their neighbours are: `(n, width)`."""
        raise TypeError

    def _places(self, p: Pass) -> Tensor:
        """Where rows stand: `(n, width)`."""
        if self.space == "code":
            return torch.cat([level.z for level in p.levels], dim=1).flatten(1)
        x = p.batch.x.flatten(1)
        if self.space == "input":
            return x.float().to(x.dtype)  # as the memory will be stored: a known row is known to the bit
        return torch.cat([x, present(p, p.batch.x - p.px.mean).flatten(1)], dim=1)

    def _nearest(self, p: Pass, own: Tensor | None) -> tuple[Tensor, Tensor]:
        """Distances to the `k` nearest and which they are; one search serves all scorers that remember the same."""
        memory = self.memory.to(p.batch.x.dtype)
        key = self.p, self.space, memory.shape, float(memory.sum()), own is None
        if key not in p.notes or p.notes[key][0].shape[1] < min(self.k, len(memory) - 1):
            p.notes[key] = nearest(self._places(p), memory, self.k, self.p, own)
        distance, which = p.notes[key]
        return distance[:, : self.k], which[:, : self.k]


class Neighbours(_Remembering):
    r"""Mean distance to the `k` nearest of the rows that the detector remembers, relative to how dense these lie.

    .. math:: s(x) = m_k(x) \Big/ \Big(\frac1k \sum_{j=1}^k m_k(x_{(j)})\Big)^{\gamma}, \quad
        m_k(x) = \frac1k \sum_{j=1}^k \lVert u(x) - u(x_{(j)}) \rVert_p

    with `u` the row itself, its code, or the row beside its residual. At :math:`\gamma = 0` it is the mean distance, at
    1 nearly the local outlier factor; between them, a row is strange that lies far off, and stranger beside a dense
    crowd. A row far from everything seen has a score that grows with the distance without bound: what nets
    alone do not promise. The memory holds rows as they are standardised: it is stored with the model.

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
    exact : int >= 1, default=20000
        Up to so many fit and validate rows all are remembered.
    sample : int >= 1, default=512
        Above, as many of the fit rows, which come in random order (windows: evenly spaced in time).

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
        exact: int = 20_000,
        sample: int = 512,
    ) -> None:
        self.k = k
        self.p = p
        self.correction = correction
        self.space = space
        self.exact = exact
        self.sample = sample

    def build(self, sizes: Sizes) -> None:
        super().build(sizes)
        if not 0 <= self.correction <= 1:
            raise ConfigError(f"Neighbours needs correction in [0, 1], however: {self.correction!r}. Try 0.5.")
        self.register_buffer("spacing", torch.ones(1))

    def _settle(self, memory: Tensor, crowd: Tensor | None) -> None:
        super()._settle(memory, crowd)
        if self.correction:
            everyone = torch.arange(len(memory), device=memory.device)
            own = nearest(memory, memory, self.k, self.p, everyone)[0].mean(1)
            self.spacing = own.clamp(min=max(TINY, TIGHTEST * float(own.median())))

    def _score(self, p: Pass, own: Tensor | None) -> Tensor:
        distance, which = self._nearest(p, own)
        score = distance.mean(1)
        return score / self.spacing[which].mean(1).to(score.dtype) ** self.correction if self.correction else score

    def _score_and_off(self, p: Pass) -> tuple[Tensor, Tensor]:
        score, which, memory = self._score(p, None), self._nearest(p, None)[1], self.memory.to(p.batch.x.dtype)
        return score, _among(memory, which) - self._places(p)


class LocalDenoiser(_Remembering):
    r"""Residual of the linear denoising autoencoder of a row's neighbourhood, in closed form.

    .. math:: s(x) = \lVert r \rVert, \quad r = \lambda (S + \lambda I)^{-1} (x - \mu), \quad
        \lambda = \text{ridge} \cdot \mathrm{tr}(S) / k

    with :math:`\mu` the mean of the `k` nearest remembered rows and :math:`S` their scatter about it: what the best
    linear map from noisy neighbours to clean ones leaves of the row. Directions in which the neighbours spread cost
    little, those in which they do not cost the whole distance: a curved surface is known by its tangents. Far away
    from all rows the score grows with the distance without bound. The memory holds rows as they are standardised: it
    is stored with the model.

    Where not all rows are remembered, each of the sampled ones keeps the map of its own `k` nearest among all, and a
    row goes by that of the nearest.

    **Shape**: a pass over `n` rows to `(n,)`, each 0 or more.

    Parameters
    ----------
    k : int >= 1, default=40
        How many neighbours.
    ridge : float > 0, default=1
        :math:`\lambda` in units of the neighbours' mean square distance from their mean: how much noise the
        denoiser expects.
    space, exact, sample
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
    centre: Tensor
    map: Tensor

    def __init__(
        self, k: int = 40, ridge: float = 1.0, space: str = "input", exact: int = 20_000, sample: int = 512
    ) -> None:
        self.k = k
        self.ridge = ridge
        self.space = space
        self.exact = exact
        self.sample = sample

    def build(self, sizes: Sizes) -> None:
        super().build(sizes)
        if not self.ridge > 0:
            raise ConfigError(f"LocalDenoiser needs ridge above 0, however: {self.ridge!r}. Try 1.")
        self.register_buffer("centre", torch.zeros(0))
        self.register_buffer("map", torch.zeros(0))

    def _settle(self, memory: Tensor, crowd: Tensor | None) -> None:
        super()._settle(memory, crowd)
        width = memory.shape[1]
        self.centre = self.map = memory.new_zeros(0)
        if crowd is not None and len(memory) * width * width <= CELLS:
            near = crowd[nearest(memory, crowd, self.k, 2.0, None)[1]]
            self.centre = near.mean(1)
            unit = torch.eye(width, dtype=memory.dtype, device=memory.device).expand(len(memory), -1, -1)
            self.map = self._residual(near - self.centre[:, None], unit).transpose(1, 2).contiguous()

    def _score(self, p: Pass, own: Tensor | None) -> Tensor:
        return self._off(p, own).norm(dim=1)

    def _score_and_off(self, p: Pass) -> tuple[Tensor, Tensor]:
        off = self._off(p, None)
        return off.norm(dim=1), off

    def _off(self, p: Pass, own: Tensor | None) -> Tensor:
        places, which = self._places(p), self._nearest(p, own)[1]
        mapped = len(self.map) > 0
        cells = places.shape[1] * (places.shape[1] if mapped else self.k)
        pairs = zip(_chunks(places, cells), _chunks(which, cells), strict=True)
        return torch.cat([self._mapped(x, i[:, 0]) if mapped else self._among(x, i) for x, i in pairs])

    def _mapped(self, x: Tensor, nearest: Tensor) -> Tensor:
        """What is left of rows by the map of their nearest."""
        return torch.bmm(self.map[nearest], (x - self.centre[nearest])[:, :, None])[:, :, 0]

    def _among(self, x: Tensor, which: Tensor) -> Tensor:
        """What is left of rows by the denoiser of their own neighbours."""
        near = self.memory[which].to(x.dtype)
        centre = near.mean(1, keepdim=True)
        return self._residual(near - centre, x[:, None] - centre)[:, 0]

    def _residual(self, near: Tensor, x: Tensor) -> Tensor:
        """What the denoisers of centred neighbours `(n, k, width)` leave of rows `(n, m, width)`."""
        k, width = near.shape[1:]
        spread = self.ridge * near.square().sum((1, 2)) / k + TINY
        level = spread[:, None, None]
        turned = near.transpose(1, 2)
        if width <= k:
            scatter = turned @ near
            scatter.diagonal(dim1=1, dim2=2).add_(spread[:, None])
            return level * _solved(scatter, x.transpose(1, 2)).transpose(1, 2)
        gram = near @ turned
        gram.diagonal(dim1=1, dim2=2).add_(spread[:, None])
        return x - _solved(gram, near @ x.transpose(1, 2)).transpose(1, 2) @ near


def nearest(places: Tensor, memory: Tensor, k: int, p: float, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """Distances to the `k` nearest of `memory`, nearest first, and which they are: `(n, k)`.

    `own` `(n,)` says which of `memory` a row is itself: that one is no neighbour of it.
    """
    k = min(k, max(1, len(memory) - (own is not None)))
    squares, rough, found = memory.square().sum(1), memory.float(), []
    step = max(1, CELLS // max(len(memory), (k + SPARE) * memory.shape[1]))
    for start in range(0, len(places), step):
        some = places[start : start + step]
        # the search rounds: products of matrices for Euclid's norm, else float32; the nearest are measured exactly
        far = squares - 2 * some @ memory.T if p == 2 else torch.cdist(some.float(), rough, p=p)
        if own is not None:
            far[torch.arange(len(some)), own[start : start + step]] = torch.inf
        near = far.topk(min(k + SPARE, len(memory)), largest=False, sorted=False).indices
        off = memory[near] - some[:, None]
        distance = off.square().sum(2).sqrt() if p == 2 else off.abs().pow(p).sum(2).pow(1 / p)
        if own is not None:
            distance = torch.where(near == own[start : start + step, None], torch.inf, distance)
        distance, order = distance.sort(dim=1, stable=True)
        found.append((distance[:, :k], near.gather(1, order)[:, :k]))
    distances, which = (torch.cat(parts) for parts in zip(*found, strict=True))
    return distances if own is None else distances.nan_to_num(posinf=0.0), which


def _among(memory: Tensor, which: Tensor) -> Tensor:
    """Means of the rows of `memory` that `which` `(n, k)` names: `(n, width)`."""
    return torch.cat([memory[some].mean(1) for some in _chunks(which, which.shape[1] * memory.shape[1])])


def _chunks(rows: Tensor, cells: int) -> tuple[Tensor, ...]:
    """Rows in pieces, of which each takes at most `CELLS` at `cells` a row."""
    return rows.split(max(1, CELLS // max(1, cells)))


def _solved(matrices: Tensor, sides: Tensor) -> Tensor:
    return torch.cholesky_solve(sides, torch.linalg.cholesky(matrices))
