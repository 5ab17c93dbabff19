"""Divergences: what pulls codes to the prior, and a warning where it has pulled them all the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from anomaly_ae.errors import ConfigError, warn
from anomaly_ae.nn.core import Level, Pass, Sizes, codes, kl, row_sum
from anomaly_ae.nn.terms import Term
from anomaly_ae.ranges import COUNT, NOT_NEGATIVE, SHARE, check_range

__all__ = ["KL", "ImportanceWeighted"]

COLLAPSED = 0.005  # nats a row: as much as one latent whose mean varies by a hundredth


class KL(Term):
    r"""The Kullback-Leibler term of the VAE, with the usual ways to weight, schedule and protect it.

    .. math:: \beta \sum_k \max\bigl(\lambda, \overline{KL}_k\bigr)
              \qquad\text{or}\qquad \beta \bigl| \textstyle\sum_k \overline{KL}_k - C \bigr|

    where :math:`KL_k` is latent `k`'s divergence from the prior in nats and the bar is the mean over the batch.

    **Shape**: a pass over `n` rows to `(n,)`, or to a scalar where a mean over the batch is needed.

    Parameters
    ----------
    beta : float >= 0, default=1
        Weight: 1 is the VAE, above it the beta-VAE.
    capacity : float >= 0 (nats) or None, default=None
        Hold the total KL at `C` instead of pushing it down; wants a large `beta`, say 100.
    warmup : float in [0, 1], default=0
        Share of training over which `beta` (or, with a capacity, `C`) rises linearly from 0.
    free_bits : float >= 0 (nats per latent), default=0
        KL of each latent variable (at each time step that has a code) that is not paid for; keeps latents in use.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Higgins et al. (2017), beta-VAE, ICLR; Burgess et al. (2018), arXiv:1804.03599 (capacity);
    Bowman et al. (2016), arXiv:1511.06349 (warm-up); Kingma et al. (2016), arXiv:1606.04934 (free bits).

    Examples
    --------
    >>> from anomaly_ae import KL, VAEDetector
    >>> VAEDetector(divergence=KL(beta=4, warmup=0.3)).divergence
    KL(beta=4, warmup=0.3)
    """

    needs = {"latent": "posterior"}
    deals_with = "the KL divergence from the prior"

    def __init__(
        self, beta: float = 1.0, capacity: float | None = None, warmup: float = 0.0, free_bits: float = 0.0
    ) -> None:
        self.beta = beta
        self.capacity = capacity
        self.warmup = warmup
        self.free_bits = free_bits

    def build(self, sizes: Sizes) -> None:
        check_range(self, NOT_NEGATIVE, "beta", "free_bits")
        check_range(self, NOT_NEGATIVE, "capacity", optional=True)
        check_range(self, SHARE, "warmup")
        if self.capacity is not None and self.free_bits:
            raise ConfigError(
                f"KL takes capacity or free_bits, however: {self.capacity!r} and {self.free_bits!r}. Set one of them."
            )

    def forward(self, p: Pass) -> Tensor:
        ramp = 1.0 if not self.warmup else min(1.0, p.clock.progress / self.warmup)
        cells = torch.cat([kl(level).flatten(1) for level in p.levels], dim=1)
        if self.capacity is not None:
            return self.beta * (cells.sum(1).mean() - ramp * self.capacity).abs()
        if self.free_bits:
            return ramp * self.beta * cells.mean(0).clamp(min=self.free_bits).sum()
        return ramp * self.beta * cells.sum(1)


class ImportanceWeighted(Term):
    r"""The importance-weighted bound in place of the evidence bound: several draws of a code vouch for a row together.

    .. math:: -\log \frac1k \sum_{i=1}^k \frac{p(x | z_i)\, p(z_i)}{q(z_i | x)}, \quad z_i \sim q(z | x)

    is what a row pays for its reconstruction and for this. It falls as `k` grows, towards the negative evidence: the
    posterior need be right only where it matters, so that more latents stay in use. A step costs `k` decodings. Scores
    are those of a VAE. The scale that `LearnedNormal` learns is that of single draws, too wide for those that count
    among many: beyond some ten, give a likelihood of a known scale.

    **Shape**: a pass over `n` rows to `(n,)`.

    Parameters
    ----------
    k : int >= 1, default=5
        How many draws; 1 is the VAE with its KL term estimated by one draw.

    Raises
    ------
    ConfigError
        At `fit`, when the number is out of range.

    References
    ----------
    Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519.

    Examples
    --------
    >>> from anomaly_ae import ImportanceWeighted, VAEDetector
    >>> VAEDetector(divergence=ImportanceWeighted(k=10)).divergence
    ImportanceWeighted(k=10)
    """

    needs = {"latent": "normal posterior"}
    deals_with = KL.deals_with
    pays_for_cells = True

    def __init__(self, k: int = 5) -> None:
        self.k = k

    def build(self, sizes: Sizes) -> None:
        check_range(self, COUNT, "k")

    def forward(self, p: Pass) -> Tensor:
        first = p.net.reconstruction(p)
        weights = [-first - _surplus(p.levels)]
        for _ in range(self.k - 1):
            levels = p.net.latent(p.h, p.net.prior, p.batch)  # each level beside what was drawn above it
            px = p.net.decode(codes(levels), p.batch.condition)
            weights.append(-p.net.reconstruction(replace(p, px=px)) - _surplus(levels))
        return math.log(self.k) - torch.stack(weights).logsumexp(0) - first


def _surplus(levels: tuple[Level, ...]) -> Tensor:
    """By how much likelier codes are to their posterior than to the prior, in nats: `(n,)`."""
    told = [sign * d.log_prob(level.z) for level in levels for sign, d in ((1, level.q), (-1, level.p)) if d]
    return torch.stack([row_sum(each) if each.dim() > 1 else each for each in told]).sum(0)


def warn_of_collapse(records: Sequence[Mapping[str, float]], who: str) -> None:
    """Warn where codes of validate rows all lie on the prior, so that decoders do without them."""
    last = {record["net"]: record["validate_kl"] for record in records if "validate_kl" in record}
    if not last or (nats := fmean(last.values())) >= COLLAPSED:
        return
    warn(
        f"{who} needs codes that tell rows apart, however: their KL divergence is {nats:.1g} nats: the posterior "
        "has collapsed, and every row is rebuilt as the same. Lower beta or set free_bits of the divergence, set gamma "
        "of the latent, or take a likelihood of a learned or smaller scale; columns that know nothing of each other "
        "leave nothing to tell."
    )
