"""Latents whose codes are made of vectors that are learned: one of a codebook, or a blend of a memory."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from anomaly_ae.nn.core import LEFT_OUT, Batch, Level, Part, Pass, Sizes, draw, spread
from anomaly_ae.nn.latents import Point
from anomaly_ae.nn.layers import Pointwise
from anomaly_ae.ranges import COUNT, NOT_ALL, NOT_NEGATIVE, check_range

__all__ = ["Memory", "VectorQuantized"]

TINY = 1e-12
DEAD = 0.01  # of the mean use: a vector that is used less begins anew where there are codes


class VectorQuantized(Part):
    r"""A code that is one of `k` vectors: the nearest one of a codebook.

    .. math:: z = c_j, \quad j = \arg\min_i \lVert e(h) - c_i \rVert^2, \quad
              \text{cost } \beta \lVert e(h) - c_j \rVert^2

    Gradients of :math:`z` go to :math:`e(h)` as if nothing lay between. The vectors are running means of the codes
    that chose them, which is k-means by steps; one that hardly any chooses begins anew at a code of the batch. What is
    rebuilt is one of `k` rows, or of `k` pieces a time step: a row beside all of them is strange.

    **Shape**: features `(n, features)` to one level with `z` `(n, dim)` and no distribution; `(n, features, time)` to
    `(n, dim, time)`.

    Parameters
    ----------
    k : int >= 1, default=64
        Vectors of the codebook.
    dim : int >= 1 or None, default=None
        Size of the code; `None` takes the encoder's features as they are.
    commitment : float >= 0, default=0.25
        :math:`\beta`, what a code pays for its distance from its vector.
    decay : float in [0, 1), default=0.99
        How much of the running means a step keeps.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    van den Oord, Vinyals and Kavukcuoglu (2017), Neural discrete representation learning, arXiv:1711.00937;
    Razavi, van den Oord and Vinyals (2019), VQ-VAE-2, arXiv:1906.00446 (running means).

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, VectorQuantized
    >>> AutoencoderDetector(latent=VectorQuantized(k=32)).latent
    VectorQuantized(k=32)
    """

    book: Tensor
    used: Tensor
    sums: Tensor
    begun: Tensor

    def __init__(self, k: int = 64, dim: int | None = None, commitment: float = 0.25, decay: float = 0.99) -> None:
        self.k = k
        self.dim = dim
        self.commitment = commitment
        self.decay = decay

    def build(self, sizes: Sizes) -> None:
        check_range(self, COUNT, "k")
        check_range(self, COUNT, "dim", optional=True)
        check_range(self, NOT_NEGATIVE, "commitment")
        check_range(self, NOT_ALL, "decay")
        self.width = sizes.features if self.dim is None else self.dim
        self.steps = sizes.steps
        self.code = nn.Identity() if self.dim is None else Pointwise(sizes.features, self.width)
        book = draw(torch.empty(self.k, self.width))
        self.register_buffer("book", book)
        self.register_buffer("sums", book.clone())
        self.register_buffer("used", torch.ones(self.k))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def forward(self, h: Tensor, prior: Part | None, batch: Batch) -> tuple[Level, ...]:
        e = self._rows(h)
        z = self.book[self.nearest(e)]
        cost = self.commitment * (e - z).square().flatten(1).sum(1)
        return (Level(q=None, p=None, z=(e + (z - e).detach()).movedim(-1, 1), cost=cost),)

    def nearest(self, e: Tensor) -> Tensor:
        """Which vector is nearest to codes `(..., dim)`: `(...)`."""
        return (self.book.square().sum(1) - 2 * e @ self.book.T).argmin(-1)

    def start(self, p: Pass) -> None:
        if not self.begun:
            book = spread(self._rows(p.h).flatten(0, -2), self.k)
            self.book.copy_(book)
            self.sums.copy_(book)
            self.begun.fill_(True)

    def after_step(self, p: Pass) -> None:
        e = self._rows(p.h).flatten(0, -2)
        nearest = self.nearest(e)
        chosen = (nearest[:, None] == torch.arange(self.k, device=e.device)).to(e.dtype)
        if (left_out := p.notes.get(LEFT_OUT)) is not None:
            left_out = left_out.repeat_interleave(len(e) // len(left_out))[:, None]
            chosen, e = torch.where(left_out, 0.0, chosen), torch.where(left_out, self.book[nearest], e)
        used = self.decay * self.used + (1 - self.decay) * chosen.sum(0)
        sums = self.decay * self.sums + (1 - self.decay) * chosen.T @ e
        dead = (used < DEAD * used.mean())[:, None]
        used = torch.where(dead[:, 0], used.mean(), used)
        sums = torch.where(dead, used[:, None] * spread(e, self.k), sums)
        self.used.copy_(used)
        self.sums.copy_(sums)
        self.book.copy_(sums / used[:, None])

    def sample(self, n: int, prior: Part | None) -> Tensor:
        """Draw `n` codes as often as they were used: `(n, dim)` or `(n, dim, time)`."""
        which = torch.multinomial(self.used, n * prod(self.steps), replacement=True).view(n, *self.steps)
        return self.book[which].movedim(-1, 1)

    def _rows(self, h: Tensor) -> Tensor:
        return self.code(h).movedim(1, -1)


class Memory(Point):
    r"""A code that is a blend of vectors of a memory, which learn what normal codes are made of.

    .. math:: z = \sum_i w_i m_i, \quad w \propto \mathrm{shrunk}\bigl(\mathrm{softmax}_i \cos(e(h), m_i)\bigr), \quad
              \sum_i w_i = 1

    Weights below :math:`s / N` of `N` slots are none, unless all are: cosines are close to each other, and at :math:`s
    = 1` about half of the slots are left. Whatever comes in, what goes on is a blend of what was normal: a decoder that
    rebuilds too much has nothing else to rebuild from. `sample` draws from the Gaussian of the blends of fit rows, as a
    `Point` does.

    **Shape**: features `(n, features)` to one level with `z` `(n, dim)` and no distribution; `(n, features, time)` to
    `(n, dim, time)`.

    Parameters
    ----------
    slots : int >= 1, default=100
        Vectors of the memory, `N`.
    dim : int >= 1 or None, default=None
        Size of the code; `None` takes the encoder's features as they are.
    shrinkage : float >= 0, default=1
        :math:`s`: weights of less than so many times the even one are dropped.
    entropy : float >= 0, default=0.0002
        What weights pay for being even, in nats a nat.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Gong et al. (2019), Memorizing normality to detect anomaly, arXiv:1904.02639.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, Memory
    >>> AutoencoderDetector(latent=Memory(slots=50)).latent
    Memory(slots=50)
    """

    def __init__(
        self, slots: int = 100, dim: int | None = None, shrinkage: float = 1.0, entropy: float = 0.0002
    ) -> None:
        self.slots = slots
        self.dim = dim
        self.shrinkage = shrinkage
        self.entropy = entropy

    def build(self, sizes: Sizes) -> None:
        check_range(self, COUNT, "slots")
        check_range(self, NOT_NEGATIVE, "shrinkage", "entropy")
        super().build(sizes)
        self.memory = nn.Parameter(draw(torch.empty(self.slots, self.width)))

    def forward(self, h: Tensor, prior: Part | None, batch: Batch) -> tuple[Level, ...]:
        weights = self.addresses(h)
        surprise = -(weights * weights.clamp(min=TINY).log()).flatten(1).sum(1)
        z = (weights @ self.memory).movedim(-1, 1)
        return (Level(q=None, p=None, z=z, cost=self.entropy * surprise),)

    def addresses(self, h: Tensor) -> Tensor:
        """How much of each slot is in the code of features `(n, features, ...)`: `(n, ..., slots)`, adding up to 1."""
        e = self.code(h).movedim(1, -1)
        weights = (normalize(e, dim=-1) @ normalize(self.memory, dim=-1).T).softmax(-1)
        over = weights - self.shrinkage / self.slots
        kept = weights * over.clamp(min=0) / (over.abs() + TINY)  # hard shrinkage that has a gradient
        total = kept.sum(-1, keepdim=True)
        return torch.where(total > 0, kept / total.clamp(min=TINY), weights)
