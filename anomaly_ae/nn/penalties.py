"""Penalties: what codes and encoders pay for more than they need."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_ae.nn.core import Batch, Pass, Sizes, codes, draw, row_sum
from anomaly_ae.nn.terms import Term
from anomaly_ae.ranges import NOT_NEGATIVE, PROPER_SHARE, check_range

__all__ = ["Contractive", "KLSparsity", "L1Code"]


class L1Code(Term):
    r"""The absolute values of the code: few of its numbers are far from zero.

    .. math:: \lambda \sum_j |z_j|

    **Shape**: a pass over `n` rows to `(n,)`.

    Parameters
    ----------
    weight : float >= 0, default=0.001
        :math:`\lambda`, in nats a unit of code.

    Raises
    ------
    ConfigError
        At `fit`, when the weight is out of range.
    IncompatiblePartsError
        At `fit`, when the encoder is drawn, not trained.

    References
    ----------
    Ng (2011), Sparse autoencoder, CS294A lecture notes, Stanford; Tibshirani (1996), Regression shrinkage and
    selection via the lasso, JRSS B 58.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, L1Code
    >>> AutoencoderDetector(penalty=L1Code(weight=0.01)).penalty
    L1Code(weight=0.01)
    """

    needs = {"backbone": "trained encoder"}

    def __init__(self, weight: float = 1e-3) -> None:
        self.weight = weight

    def build(self, sizes: Sizes) -> None:
        check_range(self, NOT_NEGATIVE, "weight")

    def forward(self, p: Pass) -> Tensor:
        return self.weight * row_sum(codes(p.levels).abs())


class KLSparsity(Term):
    r"""Hidden units that are rarely active: the sparse autoencoder's penalty.

    .. math:: \beta \sum_j \rho \ln \frac{\rho}{\hat\rho_j} + (1 - \rho) \ln \frac{1 - \rho}{1 - \hat\rho_j}

    with :math:`\hat\rho_j` the mean activation of the encoder's `j`-th feature over the batch, which lies between 0
    and 1: a backbone with `activation="sigmoid"`.

    **Shape**: a pass over `n` rows to a scalar.

    Parameters
    ----------
    rho : float in (0, 1), default=0.05
        The mean activation to reach.
    weight : float >= 0 (nats a row), default=3
        :math:`\beta`.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.
    IncompatiblePartsError
        At `fit`, when the backbone's activation is another.

    References
    ----------
    Ng (2011), Sparse autoencoder, CS294A lecture notes, Stanford.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, Dense, KLSparsity
    >>> AutoencoderDetector(backbone=Dense(activation="sigmoid"), penalty=KLSparsity(rho=0.1)).penalty
    KLSparsity(rho=0.1)
    """

    needs = {"backbone": "sigmoid activation"}

    def __init__(self, rho: float = 0.05, weight: float = 3.0) -> None:
        self.rho = rho
        self.weight = weight

    def build(self, sizes: Sizes) -> None:
        check_range(self, PROPER_SHARE, "rho")
        check_range(self, NOT_NEGATIVE, "weight")

    def forward(self, p: Pass) -> Tensor:
        active = p.h.movedim(1, -1).flatten(0, -2).mean(0)
        rho, tiny = self.rho, torch.finfo(active.dtype).eps
        active = active.clamp(tiny, 1 - tiny)
        return self.weight * (rho * (rho / active).log() + (1 - rho) * ((1 - rho) / (1 - active)).log()).sum()


class Contractive(Term):
    r"""Codes that move little where rows do: the contractive autoencoder's penalty.

    .. math:: \lambda \lVert J \rVert_F^2 = \lambda\, E_v \lVert J^T v \rVert^2, \quad
              J = \partial z / \partial x, \quad v \sim N(0, I)

    of the encoder as in scoring, estimated by one direction a row and step, which costs as much as a pass.

    **Shape**: a pass over `n` rows to `(n,)`.

    Parameters
    ----------
    weight : float >= 0, default=0.1
        :math:`\lambda`.

    Raises
    ------
    ConfigError
        At `fit`, when the weight is out of range.
    IncompatiblePartsError
        At `fit`, when the encoder is drawn, not trained, or codes are drawn.

    References
    ----------
    Rifai et al. (2011), Contractive auto-encoders, ICML; Hutchinson (1990), Communications in Statistics 19 (the
    estimate).

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, Contractive
    >>> AutoencoderDetector(penalty=Contractive(weight=0.01)).penalty
    Contractive(weight=0.01)
    """

    needs = {"backbone": "trained encoder", "latent": "code without noise"}

    def __init__(self, weight: float = 0.1) -> None:
        self.weight = weight

    def build(self, sizes: Sizes) -> None:
        check_range(self, NOT_NEGATIVE, "weight")

    def forward(self, p: Pass) -> Tensor:
        def code(x: Tensor) -> Tensor:
            return codes(p.net.encode(Batch(x, p.seen.mask, p.seen.condition))[1])

        encoder = p.net.encoder
        training = encoder.training
        encoder.eval()
        z, back = torch.func.vjp(code, p.seen.x)[:2]
        (pulled,) = back(draw(z))
        encoder.train(training)
        return self.weight * row_sum(pulled.square())
