"""Latents of several levels: the higher ones say what is expected of the lower ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.distributions as D
from torch import Tensor, nn

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Batch, Level, Part, Sizes, drawn
from anomaly_ae.nn.densities import normal
from anomaly_ae.nn.layers import Pointwise
from anomaly_ae.ranges import COUNT, check_range, is_within

__all__ = ["Ladder"]


class Ladder(Part):
    r"""Codes of several levels, from fine to coarse: the hierarchical variational autoencoder's.

    .. math:: p(z) = p(z_L) \prod_{l < L} N\bigl(z_l;\, \mu_l(z_{>l}), \sigma_l(z_{>l})^2\bigr), \quad
              q(z_l | x, z_{>l}) = N(\mu_l + \sigma_l \Delta_l,\, \sigma_l^2 \delta_l^2)

    where :math:`\Delta_l` and :math:`\delta_l` come from the row's features and the codes above: a posterior says how a
    row departs from what its coarser codes let expect, and a level that has nothing to add costs nothing. The prior is
    that of the coarsest. The decoder sees all levels. In training codes are sampled; in scoring they are the means.

    Levels that the decoder could do without are the first to collapse: `KL(warmup=0.5)` lets them be found in time, and
    `latents` says which levels are in use.

    **Shape**: features `(n, features)` to levels with `q`, `p` and `z` of `(n, dim)` each, the finest first;
    `(n, features, time)` to `(n, dim, time)`.

    Parameters
    ----------
    dims : sequence of int >= 1, default=(8, 4)
        Latent variables of each level, the finest first.
    hidden : int >= 1, default=64
        Width of the layers between levels.

    Raises
    ------
    ConfigError
        At `fit`, when a width is out of range, or there is no level.

    References
    ----------
    Sonderby et al. (2016), Ladder variational autoencoders, arXiv:1602.02282; Vahdat and Kautz (2020), NVAE,
    arXiv:2007.03898 (posteriors relative to the prior).

    Examples
    --------
    >>> from anomaly_ae import Ladder, VAEDetector
    >>> VAEDetector(latent=Ladder(dims=(8, 2))).latent
    Ladder(dims=(8, 2))
    """

    offers = frozenset({"posterior", "normal posterior", "hierarchy of codes"})
    needs = {"prior": "density"}

    def __init__(self, dims: Sequence[int] = (8, 4), hidden: int = 64) -> None:
        self.dims = dims
        self.hidden = hidden

    def build(self, sizes: Sizes) -> None:
        check_range(self, COUNT, "hidden")
        if not isinstance(self.dims, Sequence) or not self.dims or not all(is_within(dim, COUNT) for dim in self.dims):
            raise ConfigError(f"Ladder needs dims of 1 or more, however: {self.dims!r}. Give (8, 4), say.")
        dims = list(self.dims)
        self.width, self.faced, self.steps = sum(dims), dims[-1], sizes.steps
        above = [sum(dims[level + 1 :]) for level in range(len(dims))]
        widths = [sizes.features, *[self.hidden] * len(dims)]
        self.up = nn.ModuleList(
            nn.Sequential(Pointwise(before, after), nn.ReLU()) for before, after in pairwise(widths)
        )
        self.departure = nn.ModuleList(
            Pointwise(self.hidden + more, 2 * dim) for dim, more in zip(dims, above, strict=True)
        )
        self.expectation = nn.ModuleList(
            nn.Sequential(Pointwise(more, self.hidden), nn.ReLU(), Pointwise(self.hidden, 2 * dim))
            for dim, more in zip(dims[:-1], above[:-1], strict=True)
        )

    def forward(self, h: Tensor, prior: Part, batch: Batch) -> tuple[Level, ...]:
        return self.levels(h, prior, batch)

    def levels(self, h: Tensor, prior: Any, batch: Batch, expected: int = 0) -> tuple[Level, ...]:
        """All levels, the finest first; the `expected` finest of them not as the row has them but as expected.

        Raises
        ------
        ConfigError
            When no level is left to expect anything by.
        """
        self.check_expected(expected)
        features = self._features(h)
        found = [self._level(normal(self.departure[-1](features[-1])), prior(batch))]
        for number in reversed(range(len(self.dims) - 1)):
            p = self._expected(number, found)
            seen = torch.cat([features[number], *(level.z for level in found)], dim=1)
            off = normal(self.departure[number](seen))
            q = D.Normal(p.mean + p.stddev * off.mean, p.stddev * off.stddev, validate_args=False)
            found.insert(0, self._level(p if number < expected else q, p))
        return tuple(found)

    def check_expected(self, expected: int) -> None:
        """Raise ConfigError where so many levels as expected leave none to expect anything by."""
        if expected >= len(self.dims):
            raise ConfigError(
                f"A ladder needs a level that the row decides, however: of {len(self.dims)} levels {expected} are to "
                "be as expected. Take fewer."
            )

    def posterior(self, h: Tensor) -> D.Normal:
        """What features say of the coarsest codes."""
        return normal(self.departure[-1](self._features(h)[-1]))

    def sample(self, n: int, prior: Any) -> Tensor:
        """Draw `n` codes, coarse ones first, finer ones as these let expect: `(n, dim)` or `(n, dim, time)`."""
        like = next(self.parameters()).new_empty(n, self.dims[-1], *self.steps)
        found = [Level(q=None, p=None, z=prior.sample(like))]
        for number in reversed(range(len(self.dims) - 1)):
            found.insert(0, Level(q=None, p=None, z=drawn(self._expected(number, found))))
        return torch.cat([level.z for level in found], dim=1)

    def _features(self, h: Tensor) -> list[Tensor]:
        features = []
        for layer in self.up:
            h = layer(h)
            features.append(h)
        return features

    def _expected(self, number: int, found: Sequence[Level]) -> D.Normal:
        """What coarser codes let expect of a level."""
        return normal(self.expectation[number](torch.cat([level.z for level in found], dim=1)))

    def _level(self, q: D.Normal, p: D.Distribution) -> Level:
        return Level(q=q, p=p, z=drawn(q, noisy=self.training))
