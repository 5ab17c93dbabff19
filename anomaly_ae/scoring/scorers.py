"""Scorers: how strange a pass is. Larger is stranger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Part, Pass, Sizes, row_sum, total_kl

__all__ = ["KLScore", "NegativeELBO", "ReconstructionError", "WeightedSum"]


class Scorer(Part):
    """What all scorers share: they add, scale, and say how much each cell contributes.

    `a + b` and `2 * a` are a `WeightedSum`.
    """

    needs_gradient: ClassVar[bool] = False

    def contributions(self, p: Pass) -> Tensor:
        r"""What each cell lost by not being what was expected, in nats: `(n, ...)`, each 0 or more.

        .. math:: c_j = \log p(\hat x_j | z) - \log p(x_j | z)
        """
        return p.px.log_prob(p.px.mode) - p.px.log_prob(p.batch.x)

    def __add__(self, other: Scorer) -> WeightedSum:
        mine, theirs = _terms(self), _terms(other)
        return WeightedSum([s for s, _ in mine + theirs], [w for _, w in mine + theirs])

    def __mul__(self, weight: float) -> WeightedSum:
        return WeightedSum([s for s, _ in _terms(self)], [weight * w for _, w in _terms(self)])

    __rmul__ = __mul__


class ReconstructionError(Scorer):
    r"""Mean over the columns of the reconstruction's error.

    .. math:: s(x) = \frac1d \sum_j |x_j - \hat x_j|^p

    in standardised columns. The contributions add up to the score exactly.

    **Shape**: a pass over `n` rows to `(n,)`, each 0 or more.

    Parameters
    ----------
    power : float > 0, default=2
        2 is the squared error, 1 the absolute error.

    Raises
    ------
    ConfigError
        At `fit`, when `power` is not positive.

    References
    ----------
    Hawkins et al. (2002), Outlier detection using replicator neural networks, DaWaK.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, ReconstructionError
    >>> AutoencoderDetector(scorer=ReconstructionError(power=1)).scorer
    ReconstructionError(power=1)
    """

    def __init__(self, power: float = 2.0) -> None:
        self.power = power

    def build(self, sizes: Sizes) -> None:
        if not self.power > 0:
            raise ConfigError(f"ReconstructionError needs a power above 0, however: {self.power!r}. Try 2.")

    def contributions(self, p: Pass) -> Tensor:
        return (p.batch.x - p.px.mean).abs().pow(self.power) / p.batch.x[0].numel()

    def forward(self, p: Pass) -> Tensor:
        return row_sum(self.contributions(p))


class KLScore(Scorer):
    r"""How far the code's posterior lies from its prior, in nats.

    .. math:: s(x) = KL\bigl(q(z|x) \,\|\, p(z)\bigr)

    Sees anomalies that the decoder rebuilds but whose codes are unusual; says nothing where all latents have
    collapsed. It has no columns of its own, so contributions are the reconstruction's.

    **Shape**: a pass over `n` rows to `(n,)`, each 0 or more.

    References
    ----------
    Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114.

    Examples
    --------
    >>> from anomaly_ae import KLScore, ReconstructionError
    >>> ReconstructionError() + 0.1 * KLScore()
    WeightedSum(scorers=[ReconstructionError(), KLScore()], weights=[1.0, 0.1])
    """

    needs = {"latent": "posterior"}

    def forward(self, p: Pass) -> Tensor:
        return total_kl(p)


class NegativeELBO(Scorer):
    r"""The negative evidence lower bound, in nats: what a VAE thinks a row costs to describe.

    .. math:: s(x) = -\log p(x | z) + KL\bigl(q(z|x) \,\|\, p(z)\bigr), \quad z = E_q[z]

    taken at the code's mean, so that scores repeat.

    **Shape**: a pass over `n` rows to `(n,)`.

    References
    ----------
    Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114.

    Examples
    --------
    >>> from anomaly_ae import NegativeELBO, VAEDetector
    >>> VAEDetector(scorer=NegativeELBO()).scorer
    NegativeELBO()
    """

    needs = {"latent": "posterior"}

    def forward(self, p: Pass) -> Tensor:
        return -p.net.log_likelihood(p)


class WeightedSum(Scorer):
    r"""A weighted sum of scores.

    .. math:: s(x) = \sum_i w_i s_i(x)

    **Shape**: a pass over `n` rows to `(n,)`.

    Parameters
    ----------
    scorers : sequence of scorers
        What to add up.
    weights : sequence of float or None, default=None
        One weight a scorer; `None` is 1 for each.

    Raises
    ------
    ConfigError
        At `fit`, when there is no scorer or the numbers of scorers and weights differ.

    References
    ----------
    Aggarwal and Sathe (2015), Theoretical foundations and algorithms for outlier ensembles, SIGKDD Explorations.

    Examples
    --------
    >>> from anomaly_ae import KLScore, ReconstructionError, WeightedSum
    >>> WeightedSum([ReconstructionError(), KLScore()], weights=[1, 0.5])
    WeightedSum(scorers=[ReconstructionError(), KLScore()], weights=[1, 0.5])
    """

    def __init__(self, scorers: Sequence[Scorer] = (), weights: Sequence[float] | None = None) -> None:
        self.scorers = scorers
        self.weights = weights

    def pieces(self) -> list[Part]:
        return [self, *(piece for scorer in self.scorers for piece in scorer.pieces())]

    def build(self, sizes: Sizes) -> None:
        if not self.scorers or (self.weights is not None and len(self.weights) != len(self.scorers)):
            raise ConfigError(
                "WeightedSum needs scorers and as many weights, however: "
                f"{len(self.scorers)} scorers, weights {self.weights!r}. Give each scorer one weight."
            )
        self.terms = nn.ModuleList(self.scorers)
        for scorer in self.scorers:
            scorer.build(sizes)

    def forward(self, p: Pass) -> Tensor:
        return torch.stack([weight * scorer(p) for scorer, weight in _terms(self)]).sum(0)

    def contributions(self, p: Pass) -> Tensor:
        return torch.stack([weight * scorer.contributions(p) for scorer, weight in _terms(self)]).sum(0)


def _terms(scorer: Scorer) -> list[tuple[Scorer, float]]:
    if not isinstance(scorer, WeightedSum):
        return [(scorer, 1.0)]
    return list(zip(scorer.scorers, scorer.weights or [1.0] * len(scorer.scorers), strict=True))
