"""Latents: what the code of a row is."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.distributions as D
from torch import Tensor, nn

from anomaly_ae.nn.core import Batch, Level, Part, Pass, Sizes, draw, drawn
from anomaly_ae.nn.densities import normal
from anomaly_ae.nn.layers import Pointwise
from anomaly_ae.ranges import COUNT, POSITIVE, check_range

__all__ = ["Gaussian", "Point"]

RECENT = 0.5  # share of the last batch in what scoring normalises by: the first epoch is judged by that already
LEAST = 1e-10  # variance beside that of means: if it were larger, means would be small to be as near as they can


def _checked_dim(part: Point | Gaussian, default: int) -> int:
    check_range(part, COUNT, "dim", optional=True)
    return default if part.dim is None else int(part.dim)


class Point(Part):
    r"""A code that is a point: the plain autoencoder.

    .. math:: z = W h + b, \quad \text{or } z = h

    After training it keeps the mean and covariance of the codes of fit rows, so that `sample` can draw new codes from
    that Gaussian and decode them (ex-post density estimation), unless a divergence has them face a prior; where each
    time step has a code of its own, steps are drawn independently, so that a sampled series has no memory beyond the
    decoder's.

    **Shape**: features `(n, features)` to one level with `z` `(n, dim)` and no distribution; `(n, features, time)` to
    `(n, dim, time)`.

    Parameters
    ----------
    dim : int >= 1 or None, default=None
        Size of the code; below the number of columns the autoencoder is undercomplete, above it overcomplete.
        `None` takes the encoder's features as they are, so that nothing narrows between encoder and decoder.

    References
    ----------
    Ghosh et al. (2020), From variational to deterministic autoencoders, arXiv:1903.12436.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, Point
    >>> AutoencoderDetector(latent=Point(dim=3)).latent
    Point(dim=3)
    """

    offers = frozenset({"code without noise"})

    mean: Tensor
    root: Tensor

    def __init__(self, dim: int | None = None) -> None:
        self.dim = dim

    def build(self, sizes: Sizes) -> None:
        self.width = _checked_dim(self, sizes.features)
        self.steps = sizes.steps
        self.code = nn.Identity() if self.dim is None else Pointwise(sizes.features, self.width)
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("root", torch.eye(self.width))

    def forward(self, h: Tensor, prior: Part | None, batch: Batch) -> tuple[Level, ...]:
        return (Level(q=None, p=None, z=self.code(h)),)

    def solve(self, p: Pass) -> None:
        z = p.levels[0].z.double().movedim(1, -1).flatten(0, -2)
        centred = z - z.mean(0)
        values, vectors = torch.linalg.eigh(centred.T @ centred / max(1, len(z) - 1))
        self.mean.copy_(z.mean(0))
        self.root.copy_(vectors * values.clamp(min=0).sqrt())

    def sample(self, n: int, prior: Any) -> Tensor:
        """Draw `n` codes from the prior, else from the Gaussian fitted to those of fit rows: `(n, dim, ...)`."""
        if prior is not None:
            return prior.sample(self.mean.new_empty(n, self.width, *self.steps))
        return (self.mean + draw(self.mean.expand(n, *self.steps, -1)) @ self.root.T).movedim(-1, 1)


class Gaussian(Part):
    r"""A normally distributed code, sampled by the reparameterization trick: the variational autoencoder's.

    .. math:: q(z|x) = N(\mu(h), \mathrm{diag}\,\sigma(h)^2),
              \quad z = \mu + \sigma \epsilon, \quad \epsilon \sim N(0, I)

    In training a row's code is sampled; in scoring it is the mean, so that scores repeat.

    **Shape**: features `(n, features)` to one level with `q` and `z` of `(n, dim)`; `(n, features, time)` to
    `(n, dim, time)`.

    Parameters
    ----------
    dim : int >= 1 or None, default=None
        Number of latent variables. `None` is the number of cells that a code stands for (columns of a row, channels of
        a time step), at most `most`; without `gamma`, the ones that the data cannot pay for switch themselves off.
    gamma : float > 0 or None, default=None
        Standard deviation that the means of each latent have over a batch in training, by batch norm; `None` leaves
        them free. No latent then switches itself off: on average each is :math:`\gamma^2 / 2` nats or more from a
        standard normal.
    most : int >= 1, default=32
        The most latents that there are without `dim`.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114;
    Zhu et al. (2020), A batch normalized inference network keeps the KL vanishing away, arXiv:2004.12585 (gamma).

    Examples
    --------
    >>> from anomaly_ae import Gaussian, VAEDetector
    >>> VAEDetector(latent=Gaussian(dim=4)).latent
    Gaussian(dim=4)
    """

    offers = frozenset({"posterior", "normal posterior"})
    needs = {"prior": "density"}

    norm: Any

    def __init__(self, dim: int | None = None, gamma: float | None = None, most: int = 32) -> None:
        self.dim = dim
        self.gamma = gamma
        self.most = most

    def build(self, sizes: Sizes) -> None:
        check_range(self, COUNT, "most")
        self.width = _checked_dim(self, min(int(self.most), max(1, prod(sizes.shape) // prod(sizes.steps))))
        check_range(self, POSITIVE, "gamma", optional=True)
        self.steps = sizes.steps
        self.code = Pointwise(sizes.features, 2 * self.width)
        self.norm = nn.Identity() if self.gamma is None else nn.BatchNorm1d(self.width, LEAST, RECENT, affine=False)

    def forward(self, h: Tensor, prior: Part, batch: Batch) -> tuple[Level, ...]:
        q = self._normalised(normal(self.code(h)), self.norm.training)
        return (Level(q=q, p=prior(batch), z=drawn(q, noisy=self.training)),)

    def posterior(self, h: Tensor) -> D.Normal:
        """What features say of the code."""
        return self._normalised(normal(self.code(h)), False)

    def _normalised(self, q: D.Normal, by_batch: bool) -> D.Normal:
        """By the means of the batch, if it has two rows or more, else by those of rows before."""
        if self.gamma is None:
            return q
        by_batch = by_batch and q.loc.numel() > q.loc.shape[1]
        known = self.norm.running_mean, self.norm.running_var
        mean = self.norm(q.loc) if by_batch else nn.functional.batch_norm(q.loc, *known, eps=LEAST)
        return D.Normal(self.gamma * mean, q.scale, validate_args=False)

    def has(self, hook: str) -> bool:
        return super().has(hook) and (hook != "solve" or self.gamma is not None)

    def solve(self, p: Pass) -> None:
        mean = normal(self.code(p.h)).loc.movedim(1, -1).flatten(0, -2)
        if len(mean) > 1:
            self.norm.running_mean.copy_(mean.mean(0))  # of batches they were behind
            self.norm.running_var.copy_(mean.var(0))

    def sample(self, n: int, prior: Any) -> Tensor:
        """Draw `n` codes from the prior: `(n, dim)` or `(n, dim, time)`."""
        return prior.sample(self.code.weight.new_empty(n, self.width, *self.steps))
