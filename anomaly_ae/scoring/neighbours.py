"""Scorers beside the net, which know rows far from all that was seen: neighbours, and a denoiser in closed form."""

from __future__ import annotations

from math import inf, prod
from numbers import Integral

import torch
from torch import Tensor

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Pass, Sizes, draw
from anomaly_ae.scoring.scorers import AdditiveScorer, Scorer, divided, made_up, present

__all__ = ["Neighbours", "RandomFeatures"]

SPACES = ("input", "code", "residual")
CHUNK = 1024  # rows whose distances to the memory are held at a time
SPARE = 4  # candidates beyond k, so that rounding in the search decides nothing


class Neighbours(Scorer):
    r"""Distance to the `k`-th nearest of the rows that the detector remembers.

    .. math:: s(x) = \lVert u(x) - u(x_{(k)}) \rVert_p

    with `u` the row itself, its code, or the row beside its residual. A row far from everything seen has a large score,
    which grows with the distance without bound: what nets alone do not promise. The memory holds fit and validate rows
    as they are standardised: it is stored with the model.

    **Shape**: a pass over `n` rows to `(n,)`, each 0 or more.

    Parameters
    ----------
    k : int >= 1, default=5
        Which neighbour.
    p : float >= 1, default=2
        Norm: 2 is Euclid's, 1 is the sum of absolute differences, which one strange column sways less.
    space : {"input", "code", "residual"}, default="input"
        Where distances are taken; "residual" is the row and its residual side by side.
    exact : int >= 1, default=5000
        Up to so many rows all are remembered.
    sample : int >= 1, default=500
        Above, as many drawn at random.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Ramaswamy, Rastogi and Shim (2000), Efficient algorithms for mining outliers from large data sets, SIGMOD.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, Neighbours
    >>> AutoencoderDetector(scorer=Neighbours(k=1)).scorer
    Neighbours(k=1)
    """

    numbers_only = True
    memory: Tensor

    def __init__(self, k: int = 5, p: float = 2.0, space: str = "input", exact: int = 5000, sample: int = 500) -> None:
        self.k = k
        self.p = p
        self.space = space
        self.exact = exact
        self.sample = sample

    @property
    def reads_net(self) -> bool:  # type: ignore[override]
        return self.space != "input"

    def build(self, sizes: Sizes) -> None:
        for name in ("k", "p", "exact", "sample"):
            if not 1 <= getattr(self, name) < inf or (name != "p" and not isinstance(getattr(self, name), Integral)):
                raise ConfigError(f"Neighbours needs {name} of 1 or more, however: {getattr(self, name)!r}. Try 1.")
        if self.space not in SPACES:
            raise ConfigError(f"Neighbours needs a space from {SPACES}, however: {self.space!r}. Choose one.")
        self.register_buffer("memory", torch.zeros(1, prod(sizes.shape)))

    def learn(self, fit: Pass, validate: Pass) -> Tensor:
        rows = torch.cat([self._places(fit), self._places(validate)])
        rows = rows.float().to(rows.dtype)  # as they will be stored
        if len(rows) > self.exact:
            self.memory = rows[torch.randperm(len(fit.batch), device=rows.device)[: self.sample]].clone()
            return self(validate)
        self.memory = rows.clone()
        own = torch.arange(len(fit.batch.x), len(rows), device=rows.device)
        return self._nearest(rows[own], own)[0][:, -1]

    def forward(self, p: Pass) -> Tensor:
        return self._nearest(self._places(p))[0][:, -1]

    def contributions(self, p: Pass) -> Tensor:
        return self.judged(p)[1]

    def judged(self, p: Pass) -> tuple[Tensor, Tensor]:
        r"""How far each cell is from the mean of the neighbours; cells add up to the score: `(n, ...)`."""
        places, width = self._places(p), p.batch.x[0].numel()
        distance, neighbours = self._nearest(places)
        if self.space == "code":
            return distance[:, -1], super().contributions(p)
        off = torch.cat([self.memory[some].mean(1) for some in neighbours.split(CHUNK)]) - places
        cells = off[:, :width].abs().pow(self.p).view_as(p.batch.x)
        return distance[:, -1], divided(distance[:, -1], cells)

    def _places(self, p: Pass) -> Tensor:
        """Where rows stand: `(n, width)`."""
        if self.space == "code":
            return torch.cat([level.z for level in p.levels], dim=1).flatten(1)
        x = p.batch.x.flatten(1)
        if self.space == "input":
            return x.float().to(x.dtype)  # as the memory will be stored: a known row is known to the bit
        return torch.cat([x, present(p, p.batch.x - p.px.mean).flatten(1)], dim=1)

    def _nearest(self, places: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Distances to the `k` nearest, nearest first, and which they are: `(n, k)`; `own` are rows' own places."""
        memory = self.memory.to(places.dtype)
        k = min(self.k, max(1, len(memory) - (own is not None)))
        squares, rough, found = memory.square().sum(1), memory.float(), []
        for start in range(0, len(places), CHUNK):
            some = places[start : start + CHUNK]
            # the search rounds: products of matrices for Euclid's norm, else float32; the nearest are measured exactly
            squared = self.p == 2
            far = squares - 2 * some @ memory.T if squared else torch.cdist(some.float(), rough, p=self.p)
            if own is not None:
                far[torch.arange(len(some)), own[start : start + CHUNK]] = torch.inf
            near = far.topk(min(k + SPARE, len(memory)), largest=False).indices
            distance = (memory[near] - some[:, None]).abs().pow(self.p).sum(2).pow(1 / self.p)
            if own is not None:
                distance = torch.where(near == own[start : start + CHUNK, None], torch.inf, distance)
            distance, order = distance.sort(dim=1, stable=True)
            found.append((distance[:, :k], near.gather(1, order)[:, :k]))
        distances, which = (torch.cat(parts) for parts in zip(*found, strict=True))
        return distances if own is None else distances.nan_to_num(posinf=0.0), which


class RandomFeatures(AdditiveScorer):
    r"""Residual of a denoiser in closed form: ridge regression from random features of noisy rows to clean ones.

    .. math:: s(x) = \frac1d \lVert x - A \phi(x) \rVert^2, \quad \phi(x) = \sqrt{2/m} \cos(W x + b), \quad
        A = \arg\min E \lVert A \phi(x + \sigma u \epsilon) - x \rVert^2 + \lambda \lVert A \rVert^2

    with :math:`u` uniform in [0, 1] and :math:`\epsilon` normal. No training loop; features are bounded, so that a row
    far away is never rebuilt and its score grows with the square of the distance.

    **Shape**: a pass over `n` rows to `(n,)`, each 0 or more.

    Parameters
    ----------
    features : int >= 1, default=512
        `m`; at most four a fit row are used.
    sigma : float > 0 (standard deviations of a column), default=1
        Largest noise.
    length : float > 0, default=1
        Length scale in units of the square root of the number of cells.
    ridge : float > 0, default=0.001
        :math:`\lambda`, in units of the features' mean square.
    rows : int >= 1, default=8192
        Noisy rows to solve for, at most; four copies of each fit row where there are fewer.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Rahimi and Recht (2007), Random features for large-scale kernel machines, NeurIPS;
    Alain and Bengio (2014), arXiv:1211.4246 (what a denoiser's residual says).

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, RandomFeatures
    >>> AutoencoderDetector(scorer=RandomFeatures(features=256)).scorer
    RandomFeatures(features=256)
    """

    reads_net = False
    numbers_only = True
    frequency: Tensor
    phase: Tensor
    solution: Tensor

    def __init__(
        self, features: int = 512, sigma: float = 1.0, length: float = 1.0, ridge: float = 1e-3, rows: int = 8192
    ) -> None:
        self.features = features
        self.sigma = sigma
        self.length = length
        self.ridge = ridge
        self.rows = rows

    def build(self, sizes: Sizes) -> None:
        for name in ("features", "sigma", "length", "ridge", "rows"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"RandomFeatures needs {name} above 0, however: {getattr(self, name)!r}. Try 1.")
        d = prod(sizes.shape)
        self.unit = 2 / d
        self.register_buffer("frequency", torch.randn(d, self.features) / (self.length * d**0.5))
        self.register_buffer("phase", 2 * torch.pi * torch.rand(self.features))
        self.register_buffer("solution", torch.zeros(self.features, d))

    def learn(self, fit: Pass, validate: Pass) -> Tensor:
        x = fit.batch.x.flatten(1)
        m = min(self.features, 4 * len(x))
        copies = x[torch.randperm(len(x), device=x.device)].repeat(4, 1)[: self.rows]
        level = self.sigma * torch.rand(len(copies), 1, dtype=x.dtype, device=x.device)
        self.solution = x.new_zeros(m, x.shape[1])
        phi = self._phi(copies + level * draw(copies)).float()  # sums in float32, which is twice as quick, suffice
        gram = (phi.T @ phi).double() + self.ridge * len(copies) / m * torch.eye(m, device=x.device).double()
        solution = torch.linalg.solve(gram, (phi.T @ copies.float()).double())
        self.solution = solution.to(x.dtype).contiguous()  # products with another layout round otherwise
        return self(validate)

    def contributions(self, p: Pass) -> Tensor:
        x = p.batch.x.flatten(1)
        rebuilt = self._phi(x) @ self.solution
        return made_up(p, present(p, (x - rebuilt).square().view_as(p.batch.x)) / x.shape[1])

    def _phi(self, x: Tensor) -> Tensor:
        m = len(self.solution)
        return (x @ self.frequency[:, :m] + self.phase[:m]).cos_() * (2 / m) ** 0.5
