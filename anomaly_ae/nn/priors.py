"""Priors: what codes are expected."""

from __future__ import annotations

import torch
import torch.distributions as D
from torch import Tensor
from torch.distributions.kl import register_kl

from anomaly_ae.nn.core import Batch, Part

__all__ = ["StandardNormal"]


class Unit(D.Normal):
    """N(0, 1): a divergence from it takes half the time of one from any other normal."""


@register_kl(D.Normal, Unit)
def _from_unit(q: D.Normal, p: Unit) -> Tensor:
    squares = torch.addcmul(q.scale.square(), q.loc, q.loc)
    return torch.add(-0.5 - q.scale.log(), squares, alpha=0.5)


class StandardNormal(Part):
    r"""Independent standard normal codes.

    .. math:: p(z) = N(0, I)

    **Shape**: a batch of `n` rows to a distribution that broadcasts against codes `(n, dim)`.

    References
    ----------
    Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114.

    Examples
    --------
    >>> from anomaly_ae import StandardNormal
    >>> StandardNormal()
    StandardNormal()
    """

    offers = frozenset({"density"})

    def forward(self, batch: Batch) -> D.Distribution:
        zero = batch.x.new_zeros(())
        return Unit(zero, zero + 1, validate_args=False)
