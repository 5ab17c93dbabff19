"""What the members of an ensemble do not agree on."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Pass, Sizes, present
from anomaly_ae.scoring.scorers import AdditiveScorer

__all__ = ["Disagreement"]


class Disagreement(AdditiveScorer):
    r"""Variance of what the members of an ensemble rebuild: they agree where there was something to learn from.

    .. math:: s(x) = \frac1d \sum_j \frac{1}{K - 1} \sum_k \bigl(\hat x_j^{(k)} - \bar x_j\bigr)^2

    The contributions add up to the score exactly.

    **Shape**: a pass over `n` rows to `(n,)`, each 0 or more.

    Raises
    ------
    ConfigError
        At `fit`, of a detector with fewer than two members.

    References
    ----------
    Lakshminarayanan, Pritzel and Blundell (2017), Simple and scalable predictive uncertainty estimation using deep
    ensembles, arXiv:1612.01474.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, Disagreement
    >>> AutoencoderDetector(members=4, scorer=Disagreement()).scorer
    Disagreement()
    """

    def build(self, sizes: Sizes) -> None:
        self.terms = prod(sizes.shape)
        self.unit = 2 / self.terms

    def learn(self, fit: Pass, validate: Pass) -> Tensor:
        if not validate.peers:
            raise ConfigError("Disagreement needs two members or more, however: 1. Set members of the detector to 4.")
        return self(validate)

    def lost(self, p: Pass) -> Tensor:
        means = torch.stack([member.px.mean for member in (p, *p.peers)])
        return present(p, means.var(0)) / self.terms
