"""Scorers that know what is linear, and which part of a row is not: principal components, Mahalanobis' distance."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from anomaly_ae.nn.core import Pass, Sizes, present
from anomaly_ae.ranges import COUNT, POSITIVE, PROPER_SHARE, check_range
from anomaly_ae.scoring.moments import centred_rows, moments_of, spread
from anomaly_ae.scoring.scorers import Scorer, divided_among
from anomaly_ae.scoring.search import Searching, rows_of

__all__ = ["Mahalanobis", "PrincipalComponents", "PrincipalNeighbours"]

FLAT = 1e-3  # least of eigenvalues that matter, in units of the mean of all
CANCELLED = 1e-5  # of a row's square: where less is left, it is told from the residual itself
RIDGES = torch.logspace(-6, 0, 13, dtype=torch.float64)  # candidates, in units of the mean variance


class Quadratic(Scorer):
    r"""What scorers :math:`s = \tfrac12 x^T M x` share.

    .. math:: M = V^T \mathrm{diag}(w) V + a (I - V^T V)

    with orthonormal rows :math:`V`: in this form float32 suffices to store it, however small a variance is. `M` is the
    inverse of a covariance: what is absent, or asked for, is what it lets expect of the rest, even where places along
    the axes do not count (`inside`).
    """

    reads_net = False
    numbers_only = True
    inside = True
    mean: Tensor
    axes: Tensor
    weights: Tensor
    rest: Tensor
    inverse: Tensor
    _made: tuple[Tensor, Tensor, Any] | None = None  # the axes, what is made of them, and by what it is known

    def _reserve(self, sizes: Sizes) -> None:
        d, block = prod(sizes.shape), prod(sizes.shape[1:])
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("axes", torch.zeros(0, d))
        self.register_buffer("weights", torch.zeros(0))
        self.register_buffer("rest", torch.ones(()))
        self.register_buffer("inverse", torch.eye(block).repeat(sizes.shape[0], 1, 1))

    def _set(self, mean: Tensor, axes: Tensor, weights: Tensor, rest: Tensor) -> None:
        """Keep `M` by its parts, and the inverse of each column's own block of it."""
        channels, block, _ = self.inverse.shape
        v = axes.view(-1, channels, block)
        blocks = torch.einsum("kcs,k,kct->cst", v, weights - rest, v)
        blocks.diagonal(dim1=1, dim2=2).add_(rest)
        kind = self.mean.dtype
        self.mean, self.axes, self.weights = mean.to(kind), axes.to(kind).contiguous(), weights.to(kind)
        # not `inv`, which may fail on several large blocks at once (MKL's LU on two threads)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(blocks))
        self.rest, self.inverse = rest.to(kind), inverse.to(kind).contiguous()

    def forward(self, p: Pass) -> Tensor:
        if self._complete and self._double:
            return self._pulled(p)[0]
        x, u = self._along(p)
        return self._score(p, u, self._left(x, u))

    def contributions(self, p: Pass) -> Tensor:
        return self.judged(p)[1]

    def expected(self, p: Pass) -> Tensor:
        """What each column (of a window: each channel) is expected to be, seen from all others: as rows."""
        x = self._centred(p)
        return (self.mean + x - self._off(self._pull(x))).view_as(p.batch.x)

    @property
    def _complete(self) -> bool:
        return len(self.axes) == len(self.mean)

    @property
    def _double(self) -> bool:
        return self.axes.dtype == torch.float64

    def _centred(self, p: Pass) -> Tensor:
        return centred_rows(p, self.mean, self.axes, self.weights, self.rest)

    def _pull(self, x: Tensor) -> Tensor:
        """`M x` of centred rows."""
        if self._complete and self._double:
            return x @ self._product
        u = x @ self.axes.T
        along = (self.weights * u) @ self.axes
        return along if self._complete else along + self.rest * (x - u @ self.axes)

    def _along(self, p: Pass) -> tuple[Tensor, Tensor]:
        """Centred rows, and their places along the axes."""
        x = self._centred(p)
        return x, x @ self.axes.T

    def _pulled(self, p: Pass) -> tuple[Tensor, Tensor]:
        """Scores, and `M x`."""
        if self._complete and self._double:
            key = "pulled", self._product.shape, self._made and self._made[2]
            if key not in p.notes:  # others that have learned the same have the same to say
                x = self._centred(p)
                pull = self._pull(x)
                p.notes[key] = _per_present(p, 0.5 * (x * pull).sum(1)), pull
            told: tuple[Tensor, Tensor] = p.notes[key]
            return told
        x, u = self._along(p)
        if self._complete:
            return self._score(p, u, self._left(x, u)), (self.weights * u) @ self.axes
        both = torch.cat([u, self.weights * u]) @ self.axes  # the axes are read once
        left = x - both[: len(x)]
        return self._score(p, u, left.square().sum(1)), both[len(x) :] + self.rest * left

    def _left(self, x: Tensor, u: Tensor) -> Tensor:
        """Squares of what the axes leave of rows; by a difference where that has digits enough, for it is quicker."""
        if self._complete:
            return x.new_zeros(len(x))
        if not self._double:
            return (x - u @ self.axes).square().sum(1)
        squares = x.square().sum(1)
        left = squares - (u * (u @ self._product)).sum(1)
        if (few := left < CANCELLED * squares).any():
            left = torch.where(few, (x - u @ self.axes).square().sum(1), left)
        return left

    @property
    def _product(self) -> Tensor:
        """`M` where the axes are complete, else what rounded axes take from a row's square, `2 I - V V^T`."""
        if self._made is None or self._made[0] is not self.axes:
            v = self.axes
            made = (self.weights * v.T) @ v if self._complete else 2 * torch.eye(len(v)).to(v) - v @ v.T
            self._made = v, made, (float(made.sum()), float(self.mean.sum()), float(self.rest))
        return self._made[1]

    def _off(self, pull: Tensor) -> Tensor:
        """How far each column is from what the others let expect, by `M x`: `(n, columns * block)`."""
        if self.inverse.shape[1] == 1:
            return pull * self.inverse.flatten()
        blocks = pull.view(len(pull), *self.inverse.shape[:2])
        return torch.bmm(self.inverse, blocks.permute(1, 2, 0)).permute(2, 0, 1).flatten(1)

    def _score(self, p: Pass, u: Tensor, left: Tensor) -> Tensor:
        """Of places along the axes, and squares of what these leave."""
        along = (self.weights * u.square()).sum(1) if self.inside else 0.0
        return _per_present(p, 0.5 * (along + self.rest * left))

    def _load_from_state_dict(self, *args: Any) -> None:
        self._made = None  # of other axes
        super()._load_from_state_dict(*args)


class Mahalanobis(Quadratic):
    r"""Squared Mahalanobis distance of the row itself: the negative log-density of a Gaussian, up to a constant.

    .. math:: s(x) = \tfrac12 (x - m)^T (S + \epsilon \bar v I)^{-1} (x - m)

    with :math:`S` the covariance of fit rows and :math:`\bar v` its mean variance; the ridge is the one under which
    validate rows are likeliest. On windows of sensors it knows every linear relation of every channel with every other,
    at every lag within the window.

    Contributions are reconstruction-based: by how much the score falls if one column (of a window: one channel) is what
    all others let expect, :math:`c_J = \frac12 (M x)_J^T M_{JJ}^{-1} (M x)_J` with `M` the inverse above. If one alone
    is wrong by enough, it is the one blamed most; they do not add up to the score.

    **Shape**: a pass over `n` rows to `(n,)`, each 0 or more.

    Parameters
    ----------
    ridge : float > 0 or None, default=None
        :math:`\epsilon`; `None` chooses it among 1e-6 to 1.

    Raises
    ------
    ConfigError
        At `fit`, when `ridge` is not positive.

    References
    ----------
    Mahalanobis (1936), On the generalised distance in statistics; Alcala and Qin (2009), Reconstruction-based
    contribution for process monitoring, Automatica 45.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, Mahalanobis
    >>> AutoencoderDetector(scorer=Mahalanobis()).scorer
    Mahalanobis()
    """

    comparable = True

    def __init__(self, ridge: float | None = None) -> None:
        self.ridge = ridge

    @property
    def needs_validate(self) -> bool:  # type: ignore[override]
        return self.ridge is None

    def build(self, sizes: Sizes) -> None:
        check_range(self, POSITIVE, "ridge", optional=True)
        self._reserve(sizes)

    def learn(self, fit: Pass, validate: Pass) -> Tensor:
        moments = moments_of(fit)
        mean, values, vectors = moments.mean, moments.variances, moments.directions()
        scale = (values.sum() / len(mean)).clamp(min=1e-12)
        held_out = validate.batch.x.flatten(1).double() - mean
        squares = (held_out @ vectors.T).square()
        rest = (held_out.square().sum(1) - squares.sum(1)).clamp(min=0).mean()
        squares, left = squares.mean(0), len(mean) - len(values)

        def cost(ridge: Tensor) -> Tensor:
            e = ridge * scale
            return ((values + e).log() + squares / (values + e)).sum() + left * e.log() + rest / e

        ridges = RIDGES.to(values.device) if self.ridge is None else values.new_tensor([self.ridge])
        e = scale * min(ridges, key=cost)
        self._set(mean, vectors, 1 / (values + e), 1 / e)
        return self(validate)

    def judged(self, p: Pass) -> tuple[Tensor, Tensor]:
        score, pull = self._pulled(p)
        blocks = pull.view(len(pull), *self.inverse.shape[:2])
        whole = 0.5 * (blocks * self._off(pull).view_as(blocks)).sum(2, keepdim=True).clamp(min=0)
        if blocks.shape[2] > 1:  # within a channel it is divided over time as the pull is
            whole = whole * blocks.square() / blocks.square().sum(2, keepdim=True).clamp(min=1e-300)
        return score, present(p, whole.view_as(p.batch.x))


class PrincipalComponents(Quadratic):
    r"""How far a row lies from the plane of the first principal components, and how far out on it.

    .. math:: s(x) = \frac{\lVert r \rVert^2}{2 \sigma^2} + \frac12 \sum_{i \le k} \frac{u_i^2}{\lambda_i},
        \quad u = V^T (x - m), \quad r = x - m - V u

    with :math:`\sigma^2` the mean of the variances that the first `k` components leave: the negative log-density of
    probabilistic PCA, up to a constant. With `inside=False` the first term alone. On windows of sensors the components
    are shapes in time across channels.

    Contributions are complete decompositions, :math:`c_j = \frac12 (M^{1/2} (x - m))_j^2` where the score is
    :math:`\frac12 (x - m)^T M (x - m)`: with `inside=False` the square of the residual. They add up to the score.

    **Shape**: a pass over `n` rows to `(n,)`, each 0 or more.

    Parameters
    ----------
    keep : float in (0, 1), default=0.99
        Share of the variance that the components explain.
    inside : bool, default=True
        Whether distances on the plane count.

    Raises
    ------
    ConfigError
        At `fit`, when `keep` is out of range.

    References
    ----------
    Tipping and Bishop (1999), Probabilistic principal component analysis, JRSS B 61; Alcala and Qin (2011), Analysis
    and generalization of fault diagnosis methods for process monitoring, Journal of Process Control 21.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, PrincipalComponents
    >>> AutoencoderDetector(scorer=PrincipalComponents(keep=0.9)).scorer
    PrincipalComponents(keep=0.9)
    """

    needs_validate = False

    def __init__(self, keep: float = 0.99, inside: bool = True) -> None:
        self.keep = keep
        self.inside = inside

    def build(self, sizes: Sizes) -> None:
        check_range(self, PROPER_SHARE, "keep")
        self._reserve(sizes)

    def learn(self, fit: Pass, validate: Pass) -> Tensor:
        moments = moments_of(fit)
        mean, values = moments.mean, moments.variances
        share = values.cumsum(0) / values.sum().clamp(min=1e-300)
        k = min(int((share < self.keep).sum()) + 1, max(0, len(mean) - 1), len(values))
        noise = (values[k:].sum() / (len(mean) - k)).clamp(min=1e-9 * values.sum().clamp(min=1e-3) / len(mean))
        self._set(mean, moments.directions(k), 1 / values[:k].clamp(min=1e-12), 1 / noise)
        return self(validate)

    def judged(self, p: Pass) -> tuple[Tensor, Tensor]:
        x, u = self._along(p)
        left = x - u @ self.axes
        score, root = self._score(p, u, left.square().sum(1)), self.rest.sqrt() * left
        if self.inside:
            root = root + (self.weights.sqrt() * u) @ self.axes
        return score, divided_among(p, score, root.square().view_as(p.batch.x))


class PrincipalNeighbours(Searching, Scorer):
    r"""Distance to the nearest of remembered rows, of which only the first principal components are remembered.

    .. math:: s(x) = \operatorname{mean}_{j \le k} \Bigl( \sum_i
        \frac{\epsilon \bar v}{\lambda_i + \epsilon \bar v} (u_i - u_{(j) i})^2 + \lVert r \rVert^2 \Bigr)^{1/2},
        \quad u = V^T (x - m), \quad r = x - m - V u

    with :math:`\lambda_i` the variances along the components, largest first, and :math:`\bar v` the mean variance of
    all directions. Large variances are shrunk, so that these do not drown the others; what the components leave of a
    row is strange whatever is remembered. A window of many sensors costs what its components cost, in memory and time.

    Absent cells are filled with what a Gaussian of the same components, shrunk alike, lets expect of the others.

    Contributions divide the score among cells as the squares of :math:`x` less its nearest do, shrunk alike.

    **Shape**: a pass over `n` rows to `(n,)`, each 0 or more.

    Parameters
    ----------
    k : int >= 1, default=1
        How many neighbours.
    epsilon : float > 0, default=0.1
        :math:`\epsilon`: small, distances along components are Mahalanobis'; large, Euclid's.
    components : int >= 1, default=256
        At most so many, of those that have more than a thousandth of the mean variance.
    sample : int >= 1, default=2000
        How many fit rows are remembered, at most (windows: evenly spaced in time).

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Angiulli and Pizzuti (2002), Fast outlier detection in high dimensional spaces, PKDD; Jackson and Mudholkar (1979),
    Control procedures for residuals associated with principal component analysis, Technometrics 21.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, PrincipalNeighbours
    >>> AutoencoderDetector(scorer=PrincipalNeighbours(components=32)).scorer
    PrincipalNeighbours(components=32)
    """

    reads_net = False
    numbers_only = True
    searches = True
    needs_validate = False
    mean: Tensor
    axes: Tensor
    shrink: Tensor

    def __init__(self, k: int = 1, epsilon: float = 0.1, components: int = 256, sample: int = 2000) -> None:
        self.k = k
        self.epsilon = epsilon
        self.components = components
        self.sample = sample

    def build(self, sizes: Sizes) -> None:
        check_range(self, COUNT, "k", "components", "sample")
        check_range(self, POSITIVE, "epsilon")
        d = prod(sizes.shape)
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("axes", torch.zeros(0, d))
        self.register_buffer("shrink", torch.zeros(0))
        self.register_buffer("memory", torch.zeros(0, 0))

    def learn(self, fit: Pass, validate: Pass) -> Tensor:
        moments = moments_of(fit)
        mean, values = moments.mean, moments.variances
        scale, kind = (values.sum() / len(mean)).clamp(min=1e-12), self.mean.dtype
        most = min(self.components, int((values > FLAT * scale).sum()))
        self.mean, self.axes = mean.to(kind), moments.directions(most).to(kind).contiguous()
        self.shrink = (self.epsilon * scale / (values[:most] + self.epsilon * scale)).sqrt().to(kind)
        known = self._along(replace(fit, batch=fit.batch.take(spread(fit, self.sample))))[2]
        self.memory = known.float().to(kind)  # as it will be stored
        self.forget()
        return self(validate)

    def forward(self, p: Pass) -> Tensor:
        return self._nearest(p, *self._along(p))[0]

    def contributions(self, p: Pass) -> Tensor:
        return self.judged(p)[1]

    def judged(self, p: Pass) -> tuple[Tensor, Tensor]:
        x, u, places = self._along(p)
        score, which = self._nearest(p, x, u, places)
        alike = u - places + rows_of(self.memory, which).mean(1)  # what, along the components, is not off the nearest
        off = x - alike @ self.axes
        return score, divided_among(p, score, off.square().view_as(p.batch.x))

    def _nearest(self, p: Pass, x: Tensor, u: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Scores, and which of the memory are nearest."""
        distance, which = self.searched(x, most=self.k)(places, self.k)
        if x.dtype == torch.float64:
            left = (x.square().sum(1) - u.square().sum(1)).clamp(min=0)
        else:  # too few digits for that
            left = (x - u @ self.axes).square().sum(1)
        return (distance.square() + _per_present(p, left)[:, None]).sqrt().mean(1), which

    def _along(self, p: Pass) -> tuple[Tensor, Tensor, Tensor]:
        """Centred rows, their places along the components, and these shrunk.

        Cells that are absent are what a Gaussian of the same components lets expect of the others.
        """
        x = centred_rows(p, self.mean, self.axes, self.shrink.square(), self.shrink.new_ones(()))
        u = x @ self.axes.T
        return x, u, self.shrink * u


def _per_present(p: Pass, squares: Tensor) -> Tensor:
    """Sums of squares `(n,)` as large as they would be were all cells there: those that are filled are hardly off."""
    mask = p.batch.mask
    return squares if mask is None else squares / mask.flatten(1).to(squares.dtype).mean(1).clamp(min=1e-3)
