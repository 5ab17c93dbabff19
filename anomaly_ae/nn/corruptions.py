"""Corruptions: what training hides from the encoder."""

from __future__ import annotations

from dataclasses import replace

import torch

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Batch, Part, Sizes, draw

__all__ = ["GaussianNoise"]


class GaussianNoise(Part):
    r"""Add normal noise to what the encoder sees; the target stays clean: the denoising autoencoder.

    .. math:: \tilde x = x + \sigma \epsilon, \quad \epsilon \sim N(0, I)

    The best linear denoiser leaves the residual :math:`\sigma^2 (S + \sigma^2 I)^{-1} x`, a soft Mahalanobis
    distance. Scoring adds no noise.

    **Shape**: a batch of `(n, ...)` to the same shape.

    Parameters
    ----------
    sigma : float >= 0 (standard deviations of a column), default=0.3
        The noise's standard deviation.
    per_row : bool, default=True
        Draw each row's own level uniformly from [0, `sigma`], so that one net denoises at every level below it.

    Raises
    ------
    ConfigError
        At `fit`, when `sigma` is negative.

    References
    ----------
    Vincent et al. (2008), Extracting and composing robust features with denoising autoencoders, ICML;
    Alain and Bengio (2014), arXiv:1211.4246.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, GaussianNoise
    >>> AutoencoderDetector(corruption=GaussianNoise(sigma=0.1)).corruption
    GaussianNoise(sigma=0.1)
    """

    def __init__(self, sigma: float = 0.3, per_row: bool = True) -> None:
        self.sigma = sigma
        self.per_row = per_row

    def build(self, sizes: Sizes) -> None:
        if self.sigma < 0:
            raise ConfigError(f"GaussianNoise needs sigma of 0 or more, however: {self.sigma!r}. Use 0 for none.")

    def forward(self, batch: Batch) -> Batch:
        x = batch.x
        level = torch.rand(len(x), *[1] * (x.dim() - 1), dtype=x.dtype, device=x.device) if self.per_row else 1.0
        return replace(batch, x=x + self.sigma * level * draw(x))
