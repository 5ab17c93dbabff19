"""Scorers of variational autoencoders: what a code says of its row."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_ae.nn.core import Pass, by_members, kl, total_kl
from anomaly_ae.scoring.scorers import Scorer, Steps, present

__all__ = ["KLScore", "NegativeELBO"]


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


def _kl_by_step(p: Pass) -> Tensor:
    """KL divergence of each time step's code, in nats: `(n, time)`."""
    return torch.stack([kl(level).sum(1) for level in p.levels if level.q is not None]).sum(0)
