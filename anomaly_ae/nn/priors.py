"""Priors: what codes are expected.

A prior gives a distribution of codes, and draws some of the shape of others by `sample(like)`. One that is another for
rows of another condition has `given(condition)`, which draws those of some.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributions as D
from torch import Tensor, nn
from torch.distributions.kl import register_kl

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Batch, Part, Pass, Sizes, draw, drawn, spread
from anomaly_ae.nn.densities import normal
from anomaly_ae.nn.layers import Perceptron
from anomaly_ae.ranges import COUNT, check_range

__all__ = ["ConditionalPrior", "Flow", "Mixture", "StandardNormal", "Vamp"]

UNIT = math.log(math.e - 1)  # softplus makes it 1
STEEPEST = 2.0  # by which a coupling stretches at most, as a logarithm


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

    def sample(self, like: Tensor) -> Tensor:
        """Codes drawn, of the shape of `like`."""
        return draw(like)


class _OfComponents(Part):
    """What priors share that are mixtures of normals."""

    offers = frozenset({"density"})

    def sample(self, like: Tensor) -> Tensor:
        """Codes drawn, of the shape of `like`."""
        p: Components = self(Batch(like))
        return p.drawn(like)


class Mixture(_OfComponents):
    r"""Codes in clusters: a mixture of normals that is learned.

    .. math:: p(z) = \sum_k w_k N(z; \mu_k, \mathrm{diag}\,\sigma_k^2), \quad
              KL(q \,\|\, p) \le -\log \sum_k w_k e^{-KL(q \| p_k)}

    The bound takes the divergence's place: it is in closed form, exact for one component and for components far apart,
    a nat or so too large between them, and far too large for a posterior that is wider than the components; the
    evidence bound stays one. It speaks of the code as a whole: free bits
    are given once.

    **Shape**: a batch to a distribution of codes `(n, dim)`, or of each step's `(n, dim, time)`.

    Parameters
    ----------
    components : int >= 1, default=10
        How many clusters.

    Raises
    ------
    ConfigError
        At `fit`, when the number is out of range.

    References
    ----------
    Jiang et al. (2017), Variational deep embedding, arXiv:1611.05148;
    Hershey and Olsen (2007), Approximating the KL divergence between Gaussian mixture models, ICASSP.

    Examples
    --------
    >>> from anomaly_ae import Mixture, VAEDetector
    >>> VAEDetector(prior=Mixture(components=4)).prior
    Mixture(components=4)
    """

    def __init__(self, components: int = 10) -> None:
        self.components = components

    def build(self, sizes: Sizes) -> None:
        check_range(self, COUNT, "components")
        self.logits = nn.Parameter(torch.zeros(self.components))
        self.mean = nn.Parameter(draw(torch.empty(self.components, sizes.code)))
        self.log_scale = nn.Parameter(torch.zeros(self.components, sizes.code))

    def forward(self, batch: Batch) -> D.Distribution:
        return Components(self.logits.log_softmax(0), self.mean, self.log_scale.exp())


class Vamp(_OfComponents):
    r"""Codes like those of some made-up rows: a mixture of posteriors, whose rows are learned.

    .. math:: p(z) = \frac1K \sum_k q(z \,|\, u_k)

    with :math:`u_k` pseudo-inputs, which start as fit rows. The divergence is bounded as that of a `Mixture`.

    **Shape**: a batch to a distribution of codes `(n, dim)`.

    Parameters
    ----------
    pseudo_inputs : int >= 1, default=50
        How many rows.

    Raises
    ------
    ConfigError
        At `fit`, when the number is out of range, or where each time step has a code.

    References
    ----------
    Tomczak and Welling (2018), VAE with a VampPrior, arXiv:1705.07120.

    Examples
    --------
    >>> from anomaly_ae import VAEDetector, Vamp
    >>> VAEDetector(prior=Vamp(pseudo_inputs=20)).prior
    Vamp(pseudo_inputs=20)
    """

    needs = {"latent": "normal posterior"}

    begun: Tensor

    def __init__(self, pseudo_inputs: int = 50) -> None:
        self.pseudo_inputs = pseudo_inputs

    def build(self, sizes: Sizes) -> None:
        check_range(self, COUNT, "pseudo_inputs")
        if sizes.steps:
            raise ConfigError(
                f"Vamp needs one code a row, however: this backbone has one for each of {sizes.steps[0]} steps. Take "
                "another, as Dense, or Mixture as the prior."
            )
        self.rows = nn.Parameter(torch.zeros(self.pseudo_inputs, *sizes.shape))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))
        self.condition = (sizes.condition, *sizes.shape[1:])

    def join(self, net: Any) -> None:
        self._net = (net,)  # no module of ours: the net holds us

    def start(self, p: Pass) -> None:
        if not self.begun:
            self.rows.copy_(spread(p.batch.x, self.pseudo_inputs))
            self.begun.fill_(True)

    def forward(self, batch: Batch) -> D.Distribution:
        (net,) = self._net
        condition = self.rows.new_zeros(len(self.rows), *self.condition) if self.condition[0] else None
        q = net.latent.posterior(net.encoder(self.rows, condition))
        return Components(q.mean.new_full((len(self.rows),), -math.log(len(self.rows))), q.mean, q.stddev)


class Flow(Part):
    r"""Codes of any shape: a normalizing flow of affine couplings from a standard normal.

    .. math:: \log p(z) = \log N(f(z); 0, I) + \log |\det \partial f / \partial z|, \quad
              f_l: (a, b) \mapsto (a,\; b\, e^{s(a)} + t(a))

    where halves take turns and :math:`|s| < 2`. The divergence :math:`-H(q) - E_q \log p(z)` is estimated by one draw
    in training, and by the two points :math:`\mu \pm \sigma` in scoring, which tell it exactly as long as the flow only
    moves and stretches, and to within half a nat or so where it bends. It speaks of the code as a whole: free bits are
    given once.

    **Shape**: a batch to a distribution of codes `(n, dim)`, or of each step's `(n, dim, time)`.

    Parameters
    ----------
    couplings : int >= 1, default=4
        How many.
    hidden : int >= 1, default=64
        Width of the nets for :math:`s` and :math:`t`.

    Raises
    ------
    ConfigError
        At `fit`, when a number is out of range, or the code is one number, which has no halves.

    References
    ----------
    Dinh, Sohl-Dickstein and Bengio (2017), Density estimation using Real NVP, arXiv:1605.08803;
    Chen et al. (2017), Variational lossy autoencoder, arXiv:1611.02731.

    Examples
    --------
    >>> from anomaly_ae import Flow, VAEDetector
    >>> VAEDetector(prior=Flow(couplings=6)).prior
    Flow(couplings=6)
    """

    offers = frozenset({"density"})

    def __init__(self, couplings: int = 4, hidden: int = 64) -> None:
        self.couplings = couplings
        self.hidden = hidden

    def build(self, sizes: Sizes) -> None:
        check_range(self, COUNT, "couplings", "hidden")
        if sizes.code < 2:
            raise ConfigError("Flow needs codes of 2 numbers or more, however: this one has 1. Take Mixture instead.")
        self.first = sizes.code // 2
        self.layers = nn.ModuleList()
        for turn in range(self.couplings):
            given = self.first if turn % 2 == 0 else sizes.code - self.first
            last = nn.Linear(self.hidden, 2 * (sizes.code - given))
            for weight in last.parameters():
                nn.init.zeros_(weight)  # it starts as the identity
            self.layers.append(nn.Sequential(nn.Linear(given, self.hidden), nn.ReLU(), last))

    def forward(self, batch: Batch) -> D.Distribution:
        return Flowed(self)

    def sample(self, like: Tensor) -> Tensor:
        """Codes drawn, of the shape of `like`."""
        return self.inverse(draw(like.movedim(1, -1))).movedim(-1, 1)

    def normalized(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Codes `(..., dim)` as the standard normal has them, and the logarithms of the determinants `(...)`."""
        log_det = z.new_zeros(z.shape[:-1])
        for turn, layers in enumerate(self.layers):
            given, moved = self._halves(z, turn)
            stretch, shift = self._coupling(layers, given)
            z = self._whole(given, moved * stretch.exp() + shift, turn)
            log_det = log_det + stretch.sum(-1)
        return z, log_det

    def inverse(self, u: Tensor) -> Tensor:
        """The codes `(..., dim)` that `normalized` would turn into these."""
        for turn, layers in reversed(list(enumerate(self.layers))):
            given, moved = self._halves(u, turn)
            stretch, shift = self._coupling(layers, given)
            u = self._whole(given, (moved - shift) * (-stretch).exp(), turn)
        return u

    def _coupling(self, layers: nn.Module, given: Tensor) -> tuple[Tensor, Tensor]:
        stretch, shift = layers(given).chunk(2, dim=-1)
        return STEEPEST * (stretch / STEEPEST).tanh(), shift

    def _halves(self, z: Tensor, turn: int) -> tuple[Tensor, Tensor]:
        first, second = z[..., : self.first], z[..., self.first :]
        return (first, second) if turn % 2 == 0 else (second, first)

    def _whole(self, given: Tensor, moved: Tensor, turn: int) -> Tensor:
        return torch.cat([given, moved] if turn % 2 == 0 else [moved, given], dim=-1)


class ConditionalPrior(Part):
    r"""Codes that are as the context of a row lets expect: the identifiable VAE's.

    .. math:: p(z \,|\, c) = N(\mu(c), \mathrm{diag}\,\sigma(c)^2)

    with :math:`c` the columns of `preprocessing=Conditional([...])`, and a perceptron for :math:`\mu` and
    :math:`\sigma`. The encoder is told the context, the decoder is not: what a context does to a row, it does by the
    code. Sources that are independent given a context, and whose means or spreads differ enough between contexts
    (segments of time, machines, classes), are then found but for their order and a stretching of each, which no VAE
    without contexts can promise.

    **Shape**: a batch with a condition `(n, condition)` to a distribution of codes `(n, dim)`.

    Parameters
    ----------
    hidden : int >= 1, default=64
        Width of the perceptron's hidden layer.

    Raises
    ------
    ConfigError
        At `fit`, when the width is out of range, or no column is a condition.
    IncompatiblePartsError
        At `fit`, when codes are points.

    References
    ----------
    Khemakhem et al. (2020), Variational autoencoders and nonlinear ICA: a unifying framework, arXiv:1907.04809.

    Examples
    --------
    >>> from anomaly_ae import Conditional, ConditionalPrior, VAEDetector
    >>> VAEDetector(preprocessing=Conditional(["segment"]), prior=ConditionalPrior(hidden=32)).prior
    ConditionalPrior(hidden=32)
    """

    offers = frozenset({"density", "contexts"})
    needs = {"latent": "posterior"}  # points are compared with the prior all together, whatever their contexts

    def __init__(self, hidden: int = 64) -> None:
        self.hidden = hidden

    def build(self, sizes: Sizes) -> None:
        check_range(self, COUNT, "hidden")
        if not sizes.context:
            raise ConfigError(
                "ConditionalPrior needs columns that are a condition, however: there are none. Name them by "
                "preprocessing=Conditional([...]), or take another prior."
            )
        last = nn.Linear(self.hidden, 2 * sizes.code)
        nn.init.zeros_(last.weight)  # it starts as the standard normal
        with torch.no_grad():
            last.bias.copy_(torch.cat([torch.zeros(sizes.code), torch.full((sizes.code,), UNIT)]))
        self.layers = nn.Sequential(Perceptron([sizes.condition, self.hidden], "leaky_relu"), last)

    def forward(self, batch: Batch) -> D.Distribution:
        assert batch.condition is not None
        return normal(self.layers(batch.condition))

    def given(self, condition: Tensor) -> Drawer:
        """Codes of rows of this condition, to be drawn by `sample`."""
        return Drawer(normal(self.layers(condition)))


# --- distributions, and how far a code's posterior is from them ------------------------------------------------------


@dataclass(frozen=True)
class Drawer:
    """Codes of some rows, a distribution for each, as a prior that can be drawn from."""

    p: D.Distribution

    def sample(self, like: Tensor) -> Tensor:
        """Codes drawn, one a row."""
        return drawn(self.p)


class Unit(D.Normal):
    """N(0, 1): a divergence from it takes half the time of one from any other normal."""


@register_kl(D.Normal, Unit)
def _from_unit(q: D.Normal, p: Unit) -> Tensor:
    squares = torch.addcmul(q.scale.square(), q.loc, q.loc)
    return torch.add(-0.5 - q.scale.log(), squares, alpha=0.5)


class Components(D.Distribution):
    """A mixture of normals of codes: logarithms of weights `(k,)`, means and scales `(k, dim)`."""

    def __init__(self, log_weight: Tensor, mean: Tensor, scale: Tensor) -> None:
        super().__init__(event_shape=mean.shape[1:], validate_args=False)
        self.log_weight, self.loc, self.scale = log_weight, mean, scale

    def log_prob(self, value: Tensor) -> Tensor:
        """Of codes `(n, dim, ...)`: `(n, ...)`."""
        rows = value.movedim(1, -1)[..., None, :]
        each = D.Normal(self.loc, self.scale, validate_args=False).log_prob(rows).sum(-1)
        return (self.log_weight + each).logsumexp(-1)

    def drawn(self, like: Tensor) -> Tensor:
        """Codes of the shape of `like`."""
        noise = draw(like.movedim(1, -1))
        chance = torch.rand_like(noise[..., 0])
        which = (self.log_weight.exp().cumsum(0)[:-1] < chance[..., None]).sum(-1)
        return (self.loc[which] + self.scale[which] * noise).movedim(-1, 1)


@register_kl(D.Normal, Components)
def _from_components(q: D.Normal, p: Components) -> Tensor:
    mu, sigma = (values.movedim(1, -1)[..., None, :] for values in (q.loc, q.scale))
    ratio = (sigma / p.scale).square()
    each = 0.5 * (((mu - p.loc) / p.scale).square() + ratio - 1 - ratio.log()).sum(-1)
    return -(p.log_weight - each).logsumexp(-1)[:, None]


class Flowed(D.Distribution):
    """Codes as a flow has them."""

    def __init__(self, flow: Flow) -> None:
        super().__init__(validate_args=False)
        self.flow = flow

    def log_prob(self, value: Tensor) -> Tensor:
        """Of codes `(n, dim, ...)`: `(n, ...)`."""
        u, log_det = self.flow.normalized(value.movedim(1, -1))
        return log_det - 0.5 * (u.square() + math.log(2 * math.pi)).sum(-1)


@register_kl(D.Normal, Flowed)
def _from_flow(q: D.Normal, p: Flowed) -> Tensor:
    off = q.scale * draw(q.loc) if p.flow.training else q.scale
    ends = [q.loc + off] if p.flow.training else [q.loc + off, q.loc - off]
    return -(q.entropy().sum(1) + torch.stack([p.log_prob(z) for z in ends]).mean(0))[:, None]
