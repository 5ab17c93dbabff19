"""Scorers of variational autoencoders: what a code says of its row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from anomaly_ae.nn.core import Pass, Sizes, by_members, codes, kl, present, total_kl
from anomaly_ae.ranges import check_range, whole
from anomaly_ae.scoring.scorers import Scorer, Steps

__all__ = ["ClassScore", "KLScore", "LikelihoodRatio", "NegativeELBO", "ReconstructionProbability"]


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
    adds_steps = True

    def forward(self, p: Pass) -> Tensor:
        return by_members(p, total_kl)

    def by_step(self, p: Pass) -> list[Steps]:
        return [Steps(by_members(p, _kl_by_step), self.contributions(p), False)]


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
    signed = True
    adds_steps = True

    def forward(self, p: Pass) -> Tensor:
        return by_members(p, lambda q: -q.net.log_likelihood(q))

    def by_step(self, p: Pass) -> list[Steps]:
        cost = by_members(p, lambda q: present(q, -q.px.log_prob(q.batch.x)).sum(1) + _kl_by_step(q))
        return [Steps(cost, self.contributions(p), False)]


class ClassScore(Scorer):
    r"""How unlikely it is that a row is of the normal class, in nats, by a code with a class (`ClassGaussian`).

    .. math:: s(x) = -\log q(y = 0|x)

    It knows anomalies that resemble those that labels named, and no others: `NegativeELBO() + 10 * ClassScore()` knows
    both. Contributions are the reconstruction's.

    **Shape**: a pass over `n` rows to `(n,)`, each 0 or more.

    References
    ----------
    Kingma, Rezende, Mohamed and Welling (2014), Semi-supervised learning with deep generative models, arXiv:1406.5298.

    Examples
    --------
    >>> from anomaly_ae import M2, ClassGaussian, ClassScore, VAEDetector
    >>> VAEDetector(latent=ClassGaussian(), divergence=M2(), scorer=ClassScore()).scorer
    ClassScore()
    """

    needs = {"latent": "class"}

    def forward(self, p: Pass) -> Tensor:
        return by_members(p, lambda q: softplus(q.net.latent.log_odds(q.h)))


class ReconstructionProbability(Scorer):
    r"""How improbable a row is to be rebuilt from codes that it may have, in nats, on average over these.

    .. math:: s(x) = -\frac1k \sum_{i=1}^k \log p(x | z_i), \quad z_i = \mu(x) + \sigma(x) \epsilon_i

    with noise :math:`\epsilon_i` that is drawn once, in pairs of opposite signs, so that scores repeat and depend on no
    other row. It sees how sure a code is: where it may be many things, most of them rebuild the row badly. Of several
    levels of codes each is drawn beside the means of the others. Contributions are the reconstruction's.

    **Shape**: a pass over `n` rows to `(n,)`.

    Parameters
    ----------
    draws : int >= 1, default=10
        How many codes; an odd one more has no opposite.

    Raises
    ------
    ConfigError
        At `fit`, when the number is out of range.

    References
    ----------
    An and Cho (2015), Variational autoencoder based anomaly detection using reconstruction probability, SNU.

    Examples
    --------
    >>> from anomaly_ae import ReconstructionProbability, VAEDetector
    >>> VAEDetector(scorer=ReconstructionProbability(draws=20)).scorer
    ReconstructionProbability(draws=20)
    """

    needs = {"latent": "normal posterior"}
    signed = True

    noise: Tensor

    def __init__(self, draws: int = 10) -> None:
        self.draws = draws

    def build(self, sizes: Sizes) -> None:
        check_range(self, whole(1), "draws")

    def join(self, net: Any) -> None:
        half = torch.randn((self.draws + 1) // 2, net.latent.width)
        self.register_buffer("noise", torch.cat([half, -half])[: self.draws])

    def forward(self, p: Pass) -> Tensor:
        return by_members(p, self._mean)

    def _mean(self, p: Pass) -> Tensor:
        mean = codes(p.levels)
        spread = torch.cat([torch.zeros_like(z) if q is None else q.stddev for q, _, z, _ in p.levels], dim=1)
        drawn = (mean + spread * noise.view(-1, *[1] * (mean.dim() - 2)) for noise in self.noise)
        rebuilt = (replace(p, px=p.net.decode(z, p.batch.condition)) for z in drawn)
        return torch.stack([p.net.reconstruction(one) for one in rebuilt]).mean(0)


class LikelihoodRatio(Scorer):
    r"""How much a row's finest codes have to add to what its coarser ones let expect, in nats.

    .. math:: s(x) = L(x) - L^{>k}(x)

    with :math:`L` the evidence bound and :math:`L^{>k}` the same with the `k` finest levels of a hierarchy of codes as
    the coarser ones let expect them. Normal rows are told by their coarse codes; a row that is rebuilt by fine codes
    alone was not understood, however well it is rebuilt. Where fine codes make the reconstruction worse, scores are
    below 0: a row may be so far off that this says nothing of it, and `NegativeELBO() + LikelihoodRatio(k)`, which is
    :math:`-L^{>k}`, what coarse codes alone make of a row, is the safer one. Contributions are the reconstruction's.

    **Shape**: a pass over `n` rows to `(n,)`.

    Parameters
    ----------
    k : int >= 0, default=1
        How many levels, the finest first; 0 scores every row 0.

    Raises
    ------
    ConfigError
        At `fit`, when `k` is out of range, or as large as the number of levels.

    References
    ----------
    Havtorn et al. (2021), Hierarchical VAEs know what they don't know, arXiv:2102.08248.

    Examples
    --------
    >>> from anomaly_ae import Ladder, LikelihoodRatio, VAEDetector
    >>> VAEDetector(latent=Ladder(), scorer=LikelihoodRatio(k=2)).scorer
    LikelihoodRatio(k=2)
    """

    needs = {"latent": "hierarchy of codes"}
    signed = True

    def __init__(self, k: int = 1) -> None:
        self.k = k

    def build(self, sizes: Sizes) -> None:
        check_range(self, whole(0), "k")

    def join(self, net: Any) -> None:
        net.latent.check_expected(self.k)

    def forward(self, p: Pass) -> Tensor:
        return by_members(p, self._one)

    def _one(self, p: Pass) -> Tensor:
        levels = p.net.latent.levels(p.h, p.net.prior, p.batch, self.k)
        coarse = replace(p, levels=levels, px=p.net.decode(codes(levels), p.batch.condition))
        gained: Tensor = p.net.log_likelihood(p) - p.net.log_likelihood(coarse)
        return gained


def _kl_by_step(p: Pass) -> Tensor:
    """KL divergence of each time step's code, in nats: `(n, time)`."""
    return torch.stack([kl(level).sum(1) for level in p.levels if level.q is not None]).sum(0)
