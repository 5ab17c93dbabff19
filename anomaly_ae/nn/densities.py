"""What likelihoods are made of: their common base, and the distributions that torch does not have."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.distributions as D
from torch import Tensor
from torch.nn.functional import softplus

from anomaly_ae.nn.core import Part

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def normal(params: Tensor) -> D.Normal:
    """Independent normals `(n, d, ...)`, by means and by scales that are yet to be made positive: `(n, 2 d, ...)`."""
    # of views, whose rows are apart, all that follows takes several times as long
    mean, raw = (half.contiguous() for half in params.chunk(2, dim=1))
    return Bell(mean, softplus(raw) + 1e-6)  # the floor: log sigma is finite far away


class Likelihood(Part):
    """What all likelihoods share: how many numbers a cell they ask of the decoder, samples, and a plain error."""

    @property
    def n_params(self) -> int:
        return 1

    def sample(self, px: D.Distribution) -> Tensor:
        """New rows: the means, for a scale that was set says how errors are weighed, not how rows spread."""
        return px.mean

    def lost(self, px: D.Distribution, x: Tensor) -> Tensor:
        """What each cell costs by not being what is expected, in nats: `(n, ...)`, each 0 or more."""
        return px.log_prob(px.mode) - px.log_prob(x)

    def error(self, px: D.Distribution, x: Tensor, power: float) -> Tensor:
        r"""What each cell's miss costs in the units of a reconstruction error: `(n, ...)`.

        :math:`|x - \hat x|^p` of a number; of a boolean or category, whatever the power,
        :math:`-2 \log P(p(X) \le p(x))` with `P` the probability of all levels that are expected as little as the one
        there is: 0 for the likeliest level, and for any level where all are as likely. The squared error of a unit
        normal has the same tails, so that columns of all kinds add up.
        """
        off = x - px.mean
        return off.square() if power == 2 else off.abs().pow(power)


class Density(D.Distribution):
    """What these share: a value for each cell of `like`, and no validation."""

    arg_constraints: ClassVar[dict[str, D.constraints.Constraint]] = {}

    def __init__(self, like: Tensor) -> None:
        super().__init__(like.shape, validate_args=False)


class Symmetric(Density):
    """log p = -loss(error / scale) - log_norm - log scale, around a centre; `spread` is its variance at scale 1."""

    def __init__(
        self, centre: Tensor, scale: float, loss: Callable[[Tensor], Tensor], log_norm: float, spread: float
    ) -> None:
        super().__init__(centre)
        self.centre, self.scale, self.loss, self.log_norm, self.spread = centre, scale, loss, log_norm, spread

    @property
    def mean(self) -> Tensor:
        return self.centre

    mode = mean

    @property
    def variance(self) -> Tensor:
        return torch.full_like(self.centre, self.scale**2 * self.spread)

    def log_prob(self, value: Tensor) -> Tensor:
        return -self.loss((value - self.centre) / self.scale) - self.log_norm - math.log(self.scale)


class Bell(D.Normal):
    """A normal that takes the logarithm of its scale, which many cells may share, before it is spread over them.

    torch's own spreads and checks as it is made, which a block of rows waits for.
    """

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        D.Distribution.__init__(self, mean.shape, validate_args=False)
        self.loc, self.shared = mean, scale

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        return self.shared if self.shared.dim() == self.loc.dim() else self.shared.expand_as(self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        off = (value - self.loc) / self.shared
        return torch.sub(-(self.shared.log() + HALF_LOG_2PI), off.square(), alpha=0.5)


class Coin(D.Bernoulli):
    """Bernoulli with a mode at even odds as well, where torch has NaN."""

    @property
    def mode(self) -> Tensor:
        return (self.logits >= 0).to(self.logits)


class Shares(Density):
    """`total` draws, of which cell j gets the share `x_j`: log p = total * x_j log p_j."""

    def __init__(self, log_p: Tensor, total: float = 1.0) -> None:
        super().__init__(log_p)
        self.log_p, self.total = log_p, total

    @property
    def mean(self) -> Tensor:
        return self.log_p.exp()

    @property
    def mode(self) -> Tensor:
        return self.mean

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean) / self.total

    def log_prob(self, value: Tensor) -> Tensor:
        return self.total * value * self.log_p


class Levels(Shares):
    """One draw from each group of cells."""

    def __init__(self, logits: Tensor, group: Tensor, n_groups: int) -> None:
        # scattered, not padded to the widest group: 8 times quicker with one column of 200 levels among small ones
        self.group = group.view(1, -1, *[1] * (logits.dim() - 2)).expand_as(logits)
        self.n_groups = n_groups
        shifted = logits - self.largest(logits.detach()).gather(1, self.group)
        total = self.per_group(logits, 0.0).scatter_add(1, self.group, shifted.exp())
        super().__init__(shifted - total.log().gather(1, self.group))

    @property
    def mode(self) -> Tensor:
        return self.one_hot(self.log_p)

    def per_group(self, like: Tensor, value: float) -> Tensor:
        return like.new_full((len(like), self.n_groups, *like.shape[2:]), value)

    def largest(self, cells: Tensor) -> Tensor:
        return self.per_group(cells, -math.inf).scatter_reduce(1, self.group, cells, "amax")

    def in_group(self, cells: Tensor) -> Tensor:
        """Each group's sum, in all of its cells."""
        return self.per_group(cells, 0.0).scatter_add(1, self.group, cells).gather(1, self.group)

    def one_hot(self, cells: Tensor) -> Tensor:
        """1 at each group's largest cell, the first of several."""
        place = torch.arange(cells.shape[1], device=cells.device).view(1, -1, *[1] * (cells.dim() - 2))
        winner = cells == self.largest(cells).gather(1, self.group)
        won = torch.where(winner, place, cells.shape[1])
        first = self.per_group(won, cells.shape[1]).scatter_reduce(1, self.group, won, "amin")
        return (place == first.gather(1, self.group)).to(cells)


class Routed(Density):
    """Each kind's cells by a distribution of their own: `parts` of the cells `cells`, put in `order` again."""

    def __init__(self, parts: dict[str, D.Distribution], cells: dict[str, Tensor], order: Tensor) -> None:
        self.parts, self.cells, self.order = parts, cells, order
        super().__init__(self.mean)

    def join(self, read: Callable[[str, D.Distribution], Tensor]) -> Tensor:
        """What `read` says of each kind, as cells in their order."""
        return torch.cat([read(kind, own) for kind, own in self.parts.items()], dim=1).index_select(1, self.order)

    @property
    def mean(self) -> Tensor:
        return self.join(lambda kind, own: own.mean)

    @property
    def mode(self) -> Tensor:
        return self.join(lambda kind, own: own.mode)

    @property
    def variance(self) -> Tensor:
        return self.join(lambda kind, own: own.variance)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.join(lambda kind, own: own.log_prob(value.index_select(1, self.cells[kind])))
