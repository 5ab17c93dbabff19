"""Residuals and codes whitened: what usually comes together counts once."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_ae.nn.core import Pass, Sizes, by_members, codes, present
from anomaly_ae.ranges import POSITIVE, check_range
from anomaly_ae.scoring.scorers import AdditiveScorer, Scorer

__all__ = ["LatentMahalanobis", "ResidualMahalanobis"]


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
        self.whiten.copy_(_whitening(by_members(validate, self._moments), self.shrinkage))
        return self(validate)

    def _moments(self, p: Pass) -> Tensor:
        r = _by_feature(present(p, p.batch.x - p.px.mean))
        return r.T @ r / len(r)

    def cells(self, p: Pass) -> Tensor:
        r = present(p, p.batch.x - p.px.mean)
        whitened = _by_feature(r) @ self.whiten
        return 0.5 * whitened.square().view(-1, *r.shape[2:], r.shape[1]).movedim(-1, 1)


class LatentMahalanobis(Scorer):
    r"""Squared Mahalanobis distance of a row's code from those of fit rows, in nats: how unusual a code is.

    .. math:: s(x) = \tfrac12 (z - \mu)^T (S + \epsilon \bar v I)^{-1} (z - \mu)

    with mean :math:`\mu` and covariance `S` of the codes of fit rows, of a VAE their means, and :math:`\bar v` their
    mean variance. It sees rows that are rebuilt well from codes that no normal row has, of any net. Of an ensemble it
    is the first net's. It has no columns of its own, so contributions are the reconstruction's.

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
    Denouden et al. (2018), Improving reconstruction autoencoder out-of-distribution detection with Mahalanobis
    distance, arXiv:1812.02765.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, LatentMahalanobis, Point, ReconstructionError
    >>> AutoencoderDetector(latent=Point(2), scorer=ReconstructionError() + LatentMahalanobis()).latent
    Point(dim=2)
    """

    mean: Tensor
    whiten: Tensor

    def __init__(self, shrinkage: float = 0.05) -> None:
        self.shrinkage = shrinkage

    def build(self, sizes: Sizes) -> None:
        check_range(self, POSITIVE, "shrinkage")
        self.register_buffer("mean", torch.zeros(0))
        self.register_buffer("whiten", torch.zeros(0, 0))

    def learn(self, fit: Pass, validate: Pass) -> Tensor:
        z = codes(fit.levels).flatten(1)
        self.mean = z.mean(0)
        off = z - self.mean
        self.whiten = _whitening(off.T @ off / len(off), self.shrinkage)
        return self(validate)

    def forward(self, p: Pass) -> Tensor:
        return 0.5 * ((codes(p.levels).flatten(1) - self.mean) @ self.whiten).square().sum(1)


def _whitening(moments: Tensor, shrinkage: float) -> Tensor:
    """The inverse square root of second moments, each shrunk by a share of their mean."""
    ridge = shrinkage * moments.diagonal().mean().clamp(min=1e-12)
    values, vectors = torch.linalg.eigh(moments + ridge * torch.eye(len(moments)).to(moments))
    return vectors / values.sqrt() @ vectors.T


def _by_feature(cells: Tensor) -> Tensor:
    """Cells `(n, d, ...)` as vectors of `d`, one for each row and time step."""
    return cells.movedim(1, -1).flatten(0, -2)
