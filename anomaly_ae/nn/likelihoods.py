"""Likelihoods of numbers: what an error costs."""

from __future__ import annotations

import math

import torch
import torch.distributions as D
from torch import Tensor

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import LEFT_OUT, Pass, Sizes, drawn, feature_mean
from anomaly_ae.nn.densities import Bell, Likelihood, Symmetric
from anomaly_ae.ranges import NOT_ALL, POSITIVE, check_range

__all__ = ["Huber", "Laplace", "LearnedNormal", "Normal", "StudentT"]


class Normal(Likelihood):
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

    offers = frozenset({"squared error of a known scale"})

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def build(self, sizes: Sizes) -> None:
        check_range(self, POSITIVE, "scale")

    def forward(self, params: Tensor) -> D.Distribution:
        mean = params[:, 0]
        return Bell(mean, mean.new_full((), self.scale))


class LearnedNormal(Likelihood):
    r"""Normal errors whose scale is learned, so that reconstruction and KL are weighed without tuning (sigma-VAE).

    .. math:: \sigma^2 = \overline{(x - \hat x)^2}

    the value that maximises the likelihood, tracked over batches by an exponential mean. With `per="cell"` the
    decoder itself says each cell's scale.

    **Shape**: parameters `(n, n_params, d)` to a distribution over `(n, d)`.

    Parameters
    ----------
    per : {"all", "feature", "cell"}, default="all"
        One scale for everything, one a column or channel, or one a cell (from the decoder).
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
        check_range(self, POSITIVE, "floor")
        check_range(self, NOT_ALL, "momentum")
        if self.per != "cell":
            self.register_buffer("variance", torch.ones(sizes.per_feature if self.per == "feature" else ()))

    def forward(self, params: Tensor) -> D.Distribution:
        mean = params[:, 0]
        scale = params[:, 1].exp() if self.per == "cell" else self.variance.sqrt()
        return Bell(mean, scale.clamp(min=self.floor))

    def sample(self, px: D.Distribution) -> Tensor:
        """New rows: means and, around them, errors of the learned scale."""
        return drawn(px)

    def after_step(self, p: Pass) -> None:
        if self.per == "cell":
            return
        squares, present = (p.batch.x - p.px.mean).square(), p.batch.mask
        if (left_out := p.notes.get(LEFT_OUT)) is not None:
            train = ~left_out.reshape(-1, *[1] * (squares.dim() - 1)).expand_as(squares)
            present = train if present is None else present & train
        if self.per == "feature":
            best = feature_mean(squares, present)
        else:
            best = squares.mean() if present is None else torch.where(present, squares, 0.0).sum() / present.sum()
        moved = self.momentum * self.variance + (1 - self.momentum) * best
        self.variance.copy_(torch.where(best.isnan(), self.variance, moved))


class Laplace(Likelihood):
    r"""Laplace errors: the absolute error as a likelihood, whose best guess is a median.

    .. math:: -\log p(x_j|z) = \frac{|x_j - \hat x_j|}{b} + \log 2b

    **Shape**: parameters `(n, 1, d)` to a distribution over `(n, d)`.

    Parameters
    ----------
    scale : float > 0 (standard deviations of a column), default=1
        The mean absolute error :math:`b`.

    Raises
    ------
    ConfigError
        At `fit`, when `scale` is not positive.

    References
    ----------
    Bloomfield and Steiger (1983), Least absolute deviations, Birkhaeuser.

    Examples
    --------
    >>> from anomaly_ae import Laplace
    >>> Laplace(scale=0.5)
    Laplace(scale=0.5)
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def build(self, sizes: Sizes) -> None:
        check_range(self, POSITIVE, "scale")

    def forward(self, params: Tensor) -> D.Distribution:
        mean = params[:, 0]
        return D.Laplace(mean, mean.new_full((), self.scale), validate_args=False)


class Huber(Likelihood):
    r"""Errors that are normal in the middle and Laplace in the tails: Huber's loss as a likelihood.

    .. math::
        -\log p(x_j|z) = \begin{cases} u^2 / 2 & |u| \le \delta \\ \delta |u| - \delta^2 / 2 & |u| > \delta \end{cases}
        + \log \sigma C(\delta), \quad u = \frac{x_j - \hat x_j}{\sigma}

    with :math:`C(\delta) = \sqrt{2 \pi}\, \mathrm{erf}(\delta / \sqrt 2) + 2 e^{-\delta^2 / 2} / \delta`. A gross error
    in the rows to learn from pulls no harder than one of :math:`\delta \sigma`.

    **Shape**: parameters `(n, 1, d)` to a distribution over `(n, d)`.

    Parameters
    ----------
    delta : float > 0 (scales), default=1.345
        Where the middle ends; 1.345 keeps 95 % of the mean's efficiency where errors are normal.
    scale : float > 0 (standard deviations of a column), default=1
        The middle's standard deviation.

    Raises
    ------
    ConfigError
        At `fit`, when a value is not positive.

    References
    ----------
    Huber (1964), Robust estimation of a location parameter, Annals of Mathematical Statistics 35.

    Examples
    --------
    >>> from anomaly_ae import Huber
    >>> Huber(delta=1.0)
    Huber(delta=1.0)
    """

    def __init__(self, delta: float = 1.345, scale: float = 1.0) -> None:
        self.delta = delta
        self.scale = scale

    def build(self, sizes: Sizes) -> None:
        check_range(self, POSITIVE, "delta", "scale")

    def forward(self, params: Tensor) -> D.Distribution:
        delta, edge = self.delta, math.exp(-(self.delta**2) / 2)
        middle = math.sqrt(2 * math.pi) * math.erf(delta / math.sqrt(2))
        norm = middle + 2 * edge / delta
        variance = (middle + 4 * edge * (1 / delta + 1 / delta**3)) / norm

        def loss(u: Tensor) -> Tensor:
            capped = u.abs().clamp(max=delta)
            return capped * (u.abs() - capped / 2)

        return Symmetric(params[:, 0], self.scale, loss, math.log(norm), variance)


class StudentT(Likelihood):
    r"""Student's t errors: outliers are expected, and pull the less the further off they are.

    .. math::
        -\log p(x_j|z) = \frac{\nu + 1}{2} \log\Bigl(1 + \frac{u^2}{\nu}\Bigr) + \log \sigma
        + \log \frac{\sqrt{\nu \pi}\, \Gamma(\nu / 2)}{\Gamma((\nu + 1) / 2)}, \quad u = \frac{x_j - \hat x_j}{\sigma}

    **Shape**: parameters `(n, 1, d)` to a distribution over `(n, d)`. Its `mean` is the centre :math:`\hat x`, also
    where :math:`\nu \le 1` leaves no expectation.

    Parameters
    ----------
    df : float > 0, default=4
        Degrees of freedom :math:`\nu`; 1 is Cauchy, and the more, the closer to normal.
    scale : float > 0 (standard deviations of a column), default=1
        The scale :math:`\sigma`.

    Raises
    ------
    ConfigError
        At `fit`, when a value is not positive.

    References
    ----------
    Lange, Little and Taylor (1989), Robust statistical modeling using the t distribution, JASA 84.

    Examples
    --------
    >>> from anomaly_ae import StudentT
    >>> StudentT(df=2)
    StudentT(df=2)
    """

    def __init__(self, df: float = 4.0, scale: float = 1.0) -> None:
        self.df = df
        self.scale = scale

    def build(self, sizes: Sizes) -> None:
        check_range(self, POSITIVE, "df", "scale")

    def forward(self, params: Tensor) -> D.Distribution:
        df = self.df
        log_norm = math.lgamma(df / 2) - math.lgamma((df + 1) / 2) + 0.5 * math.log(df * math.pi)
        variance = df / (df - 2) if df > 2 else math.inf
        return Symmetric(
            params[:, 0], self.scale, lambda u: (df + 1) / 2 * (u.square() / df).log1p(), log_norm, variance
        )
