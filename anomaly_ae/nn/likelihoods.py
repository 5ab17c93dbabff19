"""Likelihoods: what an error costs."""

from __future__ import annotations

import torch
import torch.distributions as D
from torch import Tensor

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Part, Pass, Sizes, draw

__all__ = ["LearnedNormal", "Normal"]


class Normal(Part):
    r"""Normal errors of a known scale: mean squared error as a likelihood.

    .. math:: -\log p(x_j|z) = \frac{(x_j - \hat x_j)^2}{2 \sigma^2} + \log \sigma + \tfrac12 \log 2\pi

    **Shape**: parameters `(n, 1, d)` to a distribution over `(n, d)`.

    Parameters
    ----------
    scale : float > 0 (standard deviations of a column), default=1
        The error's standard deviation. In a VAE it decides which latents live: one is active where its
        principal variance exceeds `scale ** 2`.

    Raises
    ------
    ConfigError
        At `fit`, when `scale` is not positive.

    References
    ----------
    Lucas et al. (2019), Don't blame the ELBO!, arXiv:1911.02469 (which latents collapse, and why).

    Examples
    --------
    >>> from anomaly_ae import Normal
    >>> Normal(scale=0.5)
    Normal(scale=0.5)
    """

    n_params = 1

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def build(self, sizes: Sizes) -> None:
        if not self.scale > 0:
            raise ConfigError(f"Normal needs a scale above 0, however: {self.scale!r}. Use 1 for plain squared error.")

    def forward(self, params: Tensor) -> D.Distribution:
        mean = params[:, 0]
        return D.Normal(mean, mean.new_full((), self.scale), validate_args=False)

    def sample(self, px: D.Distribution) -> Tensor:
        """New rows: the means, for a scale that was set says how errors are weighed, not how rows spread."""
        return px.mean


class LearnedNormal(Part):
    r"""Normal errors whose scale is learned, so that reconstruction and KL are weighed without tuning (sigma-VAE).

    .. math:: \sigma^2 = \overline{(x - \hat x)^2}

    the value that maximises the likelihood, tracked over batches by an exponential mean. With `per="cell"` the
    decoder itself says each cell's scale.

    **Shape**: parameters `(n, n_params, d)` to a distribution over `(n, d)`.

    Parameters
    ----------
    per : {"all", "feature", "cell"}, default="all"
        One scale for everything, one a column, or one a cell (from the decoder).
    floor : float > 0 (standard deviations of a column), default=0.001
        Smallest scale; keeps the likelihood finite for a column that is rebuilt perfectly.
    momentum : float in [0, 1), default=0.9
        Share of the old variance kept at each step; without effect for `per="cell"`.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Rybkin, Daniilidis and Levine (2021), Simple and effective VAE training with calibrated decoders, arXiv:2006.13202.

    Examples
    --------
    >>> from anomaly_ae import LearnedNormal, VAEDetector
    >>> VAEDetector(likelihood=LearnedNormal(per="feature")).likelihood
    LearnedNormal(per='feature')
    """

    variance: Tensor

    def __init__(self, per: str = "all", floor: float = 1e-3, momentum: float = 0.9) -> None:
        self.per = per
        self.floor = floor
        self.momentum = momentum

    @property
    def n_params(self) -> int:
        return 2 if self.per == "cell" else 1

    def build(self, sizes: Sizes) -> None:
        if self.per not in ("all", "feature", "cell"):
            raise ConfigError(
                f'LearnedNormal needs per to be "all", "feature" or "cell", however: {self.per!r}. Choose one of these.'
            )
        if not self.floor > 0:
            raise ConfigError(f"LearnedNormal needs a floor above 0, however: {self.floor!r}. Try 1e-3.")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"LearnedNormal needs momentum in [0, 1), however: {self.momentum!r}. Try 0.9.")
        if self.per != "cell":
            self.register_buffer("variance", torch.ones(sizes.shape if self.per == "feature" else ()))

    def forward(self, params: Tensor) -> D.Distribution:
        mean = params[:, 0]
        scale = params[:, 1].exp() if self.per == "cell" else self.variance.sqrt()
        return D.Normal(mean, scale.clamp(min=self.floor), validate_args=False)

    def sample(self, px: D.Distribution) -> Tensor:
        """New rows: means and, around them, errors of the learned scale."""
        return px.mean + px.stddev * draw(px.mean)

    def after_step(self, p: Pass) -> None:
        if self.per != "cell":
            squares = (p.batch.x - p.px.mean).square()
            best = squares.mean(0) if self.per == "feature" else squares.mean()
            self.variance.lerp_(best, 1 - self.momentum)
