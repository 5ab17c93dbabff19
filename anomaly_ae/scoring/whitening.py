"""Residuals whitened: errors that usually come together count once."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_ae.nn.core import Pass, Sizes, by_members, present
from anomaly_ae.ranges import POSITIVE, check_range
from anomaly_ae.scoring.scorers import AdditiveScorer

__all__ = ["ResidualMahalanobis"]


class ResidualMahalanobis(AdditiveScorer):
    r"""Squared Mahalanobis distance of the residuals, in nats: errors that usually come together count once.

    .. math:: s(x) = \tfrac12 r^T (S + \epsilon \bar v I)^{-1} r, \quad r = x - \hat x

    with :math:`S` the second moments of residuals of validate rows and :math:`\bar v` their mean variance. Column
    `j` contributes :math:`\tfrac12 [(S + \epsilon \bar v I)^{-1/2} r]_j^2`; contributions add up to the score exactly.
    The channels of a window are whitened at each time step, by moments over all steps, and the steps add up.

    **Shape**: a pass over `n` rows to `(n,)`, each 0 or more.

    Parameters
    ----------
    shrinkage : float > 0, default=0.05
        :math:`\epsilon`.

    Raises
    ------
    ConfigError
        At `fit`, when `shrinkage` is not positive.

    References
    ----------
    Thill, Konen, Wang and Bäck (2021), Temporal convolutional autoencoder for unsupervised anomaly detection in time
    series, Applied Soft Computing 112.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, ResidualMahalanobis
    >>> AutoencoderDetector(scorer=ResidualMahalanobis()).scorer
    ResidualMahalanobis()
    """

    whiten: Tensor

    comparable = True

    def __init__(self, shrinkage: float = 0.05) -> None:
        self.shrinkage = shrinkage

    def build(self, sizes: Sizes) -> None:
        check_range(self, POSITIVE, "shrinkage")
        self.register_buffer("whiten", torch.eye(sizes.shape[0]))

    def learn(self, fit: Pass, validate: Pass) -> Tensor:
        moments = by_members(validate, self._moments)
        ridge = self.shrinkage * moments.diagonal().mean().clamp(min=1e-12)
        values, vectors = torch.linalg.eigh(moments + ridge * torch.eye(len(moments)).to(moments))
        self.whiten.copy_(vectors / values.sqrt() @ vectors.T)
        return self(validate)

    def _moments(self, p: Pass) -> Tensor:
        r = _by_feature(present(p, p.batch.x - p.px.mean))
        return r.T @ r / len(r)

    def cells(self, p: Pass) -> Tensor:
        r = present(p, p.batch.x - p.px.mean)
        whitened = _by_feature(r) @ self.whiten
        return 0.5 * whitened.square().view(-1, *r.shape[2:], r.shape[1]).movedim(-1, 1)


def _by_feature(cells: Tensor) -> Tensor:
    """Cells `(n, d, ...)` as vectors of `d`, one for each row and time step."""
    return cells.movedim(1, -1).flatten(0, -2)
