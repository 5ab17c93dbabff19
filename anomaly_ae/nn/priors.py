"""Priors: what codes are expected."""

from __future__ import annotations

import torch.distributions as D

from anomaly_ae.nn.core import Batch, Part

__all__ = ["StandardNormal"]


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
        return D.Normal(zero, zero + 1, validate_args=False)
