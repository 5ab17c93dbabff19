"""Latents whose codes are discrete: sampled in a relaxed form in training, since gradients ask for one."""

from __future__ import annotations

import math
from typing import Any

import torch.distributions as D
from torch import Tensor
from torch.distributions.kl import register_kl

from anomaly_ae.nn.core import Batch, Level, Part, Sizes, gumbel
from anomaly_ae.nn.layers import Pointwise
from anomaly_ae.ranges import COUNT, POSITIVE, check_range, whole

__all__ = ["BernoulliCode", "CategoricalCode"]


class _Relaxed(Part):
    """What these share: a code of `width` cells that faces, whatever the prior, values that are all as likely."""

    offers = frozenset({"posterior", "prior of its own"})

    width: int
    temperature: float

    def build(self, sizes: Sizes) -> None:
        check_range(self, POSITIVE, "temperature")
        self.steps = sizes.steps
        self.code = Pointwise(sizes.features, self.width)

    def forward(self, h: Tensor, prior: Part | None, batch: Batch) -> tuple[Level, ...]:
        q = self.odds(self.code(h))
        return (Level(q=q, p=Even(), z=q.relaxed(self.temperature) if self.training else q.mean),)

    def odds(self, logits: Tensor) -> Switches | Choices:
        """What logits `(n, width, ...)` say of the code."""
        raise NotImplementedError

    def sample(self, n: int, prior: Any) -> Tensor:
        """Draw `n` codes, none of them relaxed, as if all were as likely: `(n, width)` or `(n, width, time)`."""
        return self.odds(self.code.weight.new_zeros(n, self.width, *self.steps)).drawn()


class BernoulliCode(_Relaxed):
    r"""A code of switches, each on or off: the variational autoencoder's of binary codes.

    .. math:: q(b_j = 1 | x) = \pi_j(h), \quad p(b_j = 1) = \tfrac12, \quad
              z_j = \mathrm{sigmoid}\frac{\mathrm{logit}\,\pi_j + \ln u - \ln(1 - u)}{t}, \quad u \sim U(0, 1)

    In training a row's code is a draw of the concrete distribution, which is nearer to 0 and 1 the lower the
    temperature, and above a half as often as the switch is on; in scoring it is the probabilities, so that scores
    repeat. The divergence is that of switches, in closed form, at most :math:`\ln 2` nats each. Codes of new rows are
    switches. They face a prior of their own, and take no other.

    **Shape**: features `(n, features)` to one level with `q` and `z` of `(n, dim)`; `(n, features, time)` to
    `(n, dim, time)`.

    Parameters
    ----------
    dim : int >= 1, default=16
        How many switches.
    temperature : float > 0, default=0.5
        :math:`t`: the lower, the more codes in training are like those that are drawn, and the noisier gradients are.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Maddison, Mnih and Teh (2017), The concrete distribution, arXiv:1611.00712;
    Jang, Gu and Poole (2017), Categorical reparameterization with Gumbel-softmax, arXiv:1611.01144 (the divergence).

    Examples
    --------
    >>> from anomaly_ae import BernoulliCode, VAEDetector
    >>> VAEDetector(latent=BernoulliCode(dim=8)).latent
    BernoulliCode(dim=8)
    """

    def __init__(self, dim: int = 16, temperature: float = 0.5) -> None:
        self.dim = dim
        self.temperature = temperature

    def build(self, sizes: Sizes) -> None:
        check_range(self, COUNT, "dim")
        self.width = int(self.dim)
        super().build(sizes)

    def odds(self, logits: Tensor) -> Switches:
        return Switches(logits=logits, validate_args=False)


class CategoricalCode(_Relaxed):
    r"""A code of variables that are each one of some levels, one-hot: the variational autoencoder's of categories.

    .. math:: q(c_i = l | x) = \pi_{il}(h), \quad p(c_i = l) = \frac1L, \quad
              z_i = \mathrm{softmax}_l \frac{\ln \pi_{il} + g_{il}}{t}, \quad g_{il} \sim \mathrm{Gumbel}(0, 1)

    In training a row's code is a draw of the concrete distribution (Gumbel-softmax), which is nearer to one-hot the
    lower the temperature, and largest at each level as often as it is chosen; in scoring it is the probabilities, so
    that scores repeat. The divergence is that of categories, in closed form, at most :math:`\ln L` nats a variable.
    Codes of new rows are one-hot. They face a prior of their own, and take no other.

    **Shape**: features `(n, features)` to one level with `q` of `(n, variables)` and `z` of `(n, variables * levels)`,
    the levels of a variable side by side; `(n, features, time)` to `(n, variables * levels, time)`.

    Parameters
    ----------
    variables : int >= 1, default=8
        How many variables.
    levels : int >= 2, default=4
        :math:`L`, how many levels each has.
    temperature : float > 0, default=0.5
        :math:`t`: the lower, the more codes in training are like those that are drawn, and the noisier gradients are.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Jang, Gu and Poole (2017), Categorical reparameterization with Gumbel-softmax, arXiv:1611.01144;
    Maddison, Mnih and Teh (2017), The concrete distribution, arXiv:1611.00712.

    Examples
    --------
    >>> from anomaly_ae import CategoricalCode, VAEDetector
    >>> VAEDetector(latent=CategoricalCode(variables=4, levels=10)).latent
    CategoricalCode(levels=10, variables=4)
    """

    def __init__(self, variables: int = 8, levels: int = 4, temperature: float = 0.5) -> None:
        self.variables = variables
        self.levels = levels
        self.temperature = temperature

    def build(self, sizes: Sizes) -> None:
        check_range(self, COUNT, "variables")
        check_range(self, whole(2), "levels")
        self.width = int(self.variables * self.levels)
        super().build(sizes)

    def odds(self, logits: Tensor) -> Choices:
        apart = logits.unflatten(1, (self.variables, self.levels)).movedim(2, -1)
        return Choices(logits=apart, validate_args=False)


# --- distributions, and how far a code's posterior is from the even one ----------------------------------------------


class Switches(D.Bernoulli):
    """Bernoulli, with draws that gradients pass."""

    levels = 2

    def drawn(self) -> Tensor:
        return self.sample()

    def relaxed(self, temperature: float) -> Tensor:
        logistic = gumbel(self.logits) - gumbel(self.logits)
        return ((self.logits + logistic) / temperature).sigmoid()


class Choices(D.OneHotCategorical):
    """One level of each variable `(n, variables, ..., levels)`; values are `(n, variables * levels, ...)`."""

    @property
    def levels(self) -> int:
        return self.event_shape[0]

    @property
    def mean(self) -> Tensor:
        return _beside(self.probs)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    def drawn(self) -> Tensor:
        return _beside(self.sample())

    def relaxed(self, temperature: float) -> Tensor:
        return _beside(((self.logits + gumbel(self.logits)) / temperature).softmax(-1))


class Even(D.Distribution):
    """Values that are all as likely, as many as the posterior has."""

    def __init__(self) -> None:
        super().__init__(validate_args=False)


@register_kl(Switches, Even)
@register_kl(Choices, Even)
def _from_even(q: Switches | Choices, p: Even) -> Tensor:
    return math.log(q.levels) - q.entropy()


def _beside(cells: Tensor) -> Tensor:
    return cells.movedim(-1, 2).flatten(1, 2)
