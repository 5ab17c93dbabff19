"""Divergences of the codes of a batch taken together: from the prior, or of latents from each other.

Each is a term; `KL() + TotalCorrelation(5)` is their sum. Where each time step has a code, steps count as rows; of a
hierarchy it is the coarsest codes, which face the prior.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Pass, Sizes, draw, spread
from anomaly_ae.nn.layers import reader
from anomaly_ae.nn.terms import Term
from anomaly_ae.ranges import COUNT, NOT_NEGATIVE, check_range

__all__ = ["DIP", "MMD", "Adversarial", "SlicedWasserstein", "TotalCorrelation"]

MOST = 512  # codes that are compared with each other
WIDTHS = (
    0.1,
    0.2,
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
)  # of kernels, in units of the mean square distance of two standard normal codes


def _imq(squares: Tensor, width: float) -> Tensor:
    return width / (width + squares)


def _rbf(squares: Tensor, width: float) -> Tensor:
    return (-squares / width).exp()


KERNELS: dict[str, Callable[[Tensor, float], Tensor]] = {"imq": _imq, "rbf": _rbf}


class MMD(Term):
    r"""Maximum mean discrepancy between codes and draws from the prior: the Wasserstein autoencoder's penalty.

    .. math:: \lambda \bigl( E\,k(z, z') + E\,k(y, y') - 2 E\,k(z, y) \bigr), \quad y \sim p(z), \quad
              k = \sum_s \frac{c_s}{c_s + \lVert a - b \rVert^2} \;\text{or}\; \sum_s e^{-\lVert a - b \rVert^2 / c_s}

    with :math:`c_s = 2 s \dim z` for seven :math:`s` from 0.1 to 10, estimated without bias by at most 512 codes of a
    batch. Codes may be points: all rows together look like the prior, while each keeps its own place, so that no
    posterior collapses. Beside `KL()` it is the InfoVAE's.

    **Shape**: a pass over `n` rows to a scalar.

    Parameters
    ----------
    weight : float >= 0 (nats a row), default=10
        :math:`\lambda`.
    kernel : {"imq", "rbf"}, default="imq"
        :math:`k`: inverse multiquadrics, whose tails pull codes in from afar, or Gaussians.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Tolstikhin et al. (2018), Wasserstein auto-encoders, arXiv:1711.01558; Zhao et al. (2019), InfoVAE,
    arXiv:1706.02262; Gretton et al. (2012), A kernel two-sample test, JMLR 13.

    Examples
    --------
    >>> from anomaly_ae import MMD, AutoencoderDetector, Point, StandardNormal
    >>> AutoencoderDetector(latent=Point(8), prior=StandardNormal(), divergence=MMD()).divergence
    MMD()
    """

    needs = {"prior": "density"}

    def __init__(self, weight: float = 10.0, kernel: str = "imq") -> None:
        self.weight = weight
        self.kernel = kernel

    def build(self, sizes: Sizes) -> None:
        check_range(self, NOT_NEGATIVE, "weight")
        if self.kernel not in KERNELS:
            raise ConfigError(f"MMD needs a kernel from {', '.join(KERNELS)}, however: {self.kernel!r}. Choose one.")

    def forward(self, p: Pass) -> Tensor:
        z, y = _codes(p), _drawn(p)
        within = self._mean(z, z, len(z)) + self._mean(y, y, len(y))
        return self.weight * (within - 2 * self._mean(z, y, 0))

    def _mean(self, a: Tensor, b: Tensor, alike: int) -> Tensor:
        """Mean of the kernel over pairs, without the `alike` ones of a code with itself."""
        squares = (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)
        kernel = KERNELS[self.kernel]
        total = torch.stack([kernel(squares, 2 * s * a.shape[1]).sum() for s in WIDTHS]).sum()
        return (total - alike * len(WIDTHS)) / max(1, len(a) * len(b) - alike)


class SlicedWasserstein(Term):
    r"""Sliced Wasserstein distance between codes and draws from the prior.

    .. math:: \lambda\, E_\theta W_2^2(\theta^T z, \theta^T y), \quad y \sim p(z), \quad \lVert \theta \rVert = 1

    On a line the optimal transport is sorting; directions are drawn anew each step. Codes may be points.

    **Shape**: a pass over `n` rows to a scalar.

    Parameters
    ----------
    weight : float >= 0 (nats a row), default=10
        :math:`\lambda`.
    projections : int >= 1, default=50
        How many directions.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Kolouri et al. (2019), Sliced Wasserstein auto-encoders, arXiv:1804.01947.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, Point, SlicedWasserstein, StandardNormal
    >>> AutoencoderDetector(latent=Point(8), prior=StandardNormal(), divergence=SlicedWasserstein()).divergence
    SlicedWasserstein()
    """

    needs = {"prior": "density"}

    def __init__(self, weight: float = 10.0, projections: int = 50) -> None:
        self.weight = weight
        self.projections = projections

    def build(self, sizes: Sizes) -> None:
        check_range(self, NOT_NEGATIVE, "weight")
        check_range(self, COUNT, "projections")

    def forward(self, p: Pass) -> Tensor:
        return self.weight * _sliced(_codes(p), _drawn(p), self.projections)


class TotalCorrelation(Term):
    r"""How much latents know of each other, to be kept small beside the KL term: beta-TCVAE's.

    .. math:: w \, KL\Bigl(q(z) \,\Big\|\, \prod_j q(z_j)\Bigr), \quad q(z) \approx \frac1m \sum_i q(z | x_i)

    over at most 512 codes of a batch. `KL() + TotalCorrelation(w)` is the beta-TCVAE of :math:`\beta = 1 + w`. Of few
    codes in many dimensions each stands for itself, and the estimate is too large.

    **Shape**: a pass over `n` rows to a scalar.

    Parameters
    ----------
    weight : float >= 0, default=5
        :math:`w`.

    Raises
    ------
    ConfigError
        At `fit`, when the weight is out of range.

    References
    ----------
    Chen et al. (2018), Isolating sources of disentanglement in VAEs, arXiv:1802.04942.

    Examples
    --------
    >>> from anomaly_ae import KL, TotalCorrelation, VAEDetector
    >>> VAEDetector(divergence=KL() + TotalCorrelation(weight=3)).divergence
    Sum(terms=[KL(), TotalCorrelation(weight=3)])
    """

    needs = {"latent": "normal posterior"}

    def __init__(self, weight: float = 5.0) -> None:
        self.weight = weight

    def build(self, sizes: Sizes) -> None:
        check_range(self, NOT_NEGATIVE, "weight")

    def forward(self, p: Pass) -> Tensor:
        mu, sigma = _posteriors(p)
        off = (_codes(p)[:, None] - mu) / sigma  # of each code from each posterior
        each = -0.5 * off.square() - sigma.log() - 0.5 * math.log(2 * math.pi)
        joint = each.sum(2).logsumexp(1) - math.log(len(mu))
        apart = (each.logsumexp(1) - math.log(len(mu))).sum(1)
        return self.weight * (joint - apart).mean()


class DIP(Term):
    r"""Moments of the codes of all rows, to be those of independent variables beside the KL term: DIP-VAE's.

    .. math:: \lambda_o \sum_{i \ne j} \Sigma_{ij}^2 + \lambda_d \sum_i (\Sigma_{ii} - 1)^2

    with :math:`\Sigma` the covariance of the codes' means over the batch (DIP-VAE-I), or of the codes themselves
    (DIP-VAE-II). `KL() + DIP()` is the model of the paper.

    **Shape**: a pass over `n` rows to a scalar.

    Parameters
    ----------
    weight : float >= 0, default=10
        :math:`\lambda_o`.
    diagonal : float >= 0, default=100
        :math:`\lambda_d`; the paper has ten times the weight for means, and as much as it for codes.
    of : {"means", "codes"}, default="means"
        What the covariance is of.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Kumar, Sattigeri and Balakrishnan (2018), Variational inference of disentangled latent concepts from unlabeled
    observations, arXiv:1711.00848.

    Examples
    --------
    >>> from anomaly_ae import DIP, KL, VAEDetector
    >>> VAEDetector(divergence=KL() + DIP(weight=5)).divergence
    Sum(terms=[KL(), DIP(weight=5)])
    """

    needs = {"latent": "normal posterior"}

    def __init__(self, weight: float = 10.0, diagonal: float = 100.0, of: str = "means") -> None:
        self.weight = weight
        self.diagonal = diagonal
        self.of = of

    def build(self, sizes: Sizes) -> None:
        check_range(self, NOT_NEGATIVE, "weight", "diagonal")
        if self.of not in ("means", "codes"):
            raise ConfigError(f'DIP needs of to be "means" or "codes", however: {self.of!r}. Choose one.')

    def forward(self, p: Pass) -> Tensor:
        mu, sigma = _posteriors(p)
        off = mu - mu.mean(0)
        covariance = off.T @ off / len(mu)
        own = covariance.diagonal()
        if self.of == "codes":
            own = own + sigma.square().mean(0)
        beside = covariance.square().sum() - covariance.diagonal().square().sum()
        return self.weight * beside + self.diagonal * (own - 1).square().sum()


class Adversarial(Term):
    r"""A critic that learns to tell codes from draws of the prior, and codes that learn to be taken for these.

    .. math:: \lambda\, KL(q(z) \,\|\, p(z)) \approx -\lambda E\, D(z), \quad
              D = \arg\min E \ln(1 + e^{D(z)}) + E \ln(1 + e^{-D(y)}), \quad y \sim p(z)

    with the critic :math:`D`, a perceptron, trained beside the net: the adversarial autoencoder, whose codes pay the
    logarithm of the ratio of densities that the critic sees. With `of="independence"` it tells codes from codes whose
    latents are shuffled among rows, and the ratio is the total correlation: `KL() + Adversarial(1, "independence")` is
    the FactorVAE. At most 512 codes of a batch are looked at. Two that learn from each other may run in circles: where
    codes need only look like the prior, `MMD` has them do so more surely.

    What a critic says of validate rows depends on the critic: epochs are compared by the sliced Wasserstein distance.

    **Shape**: a pass over `n` rows to a scalar.

    Parameters
    ----------
    weight : float >= 0, default=0.1
        :math:`\lambda`.
    of : {"prior", "independence"}, default="prior"
        What codes are to be taken for.
    hidden : int >= 1, default=64
        Width of the critic's two hidden layers.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Makhzani et al. (2016), Adversarial autoencoders, arXiv:1511.05644; Kim and Mnih (2018), Disentangling by
    factorising, arXiv:1802.05983; Sugiyama, Suzuki and Kanamori (2012), Density ratio estimation in machine learning.

    Examples
    --------
    >>> from anomaly_ae import Adversarial, AutoencoderDetector, Point, StandardNormal
    >>> AutoencoderDetector(latent=Point(8), prior=StandardNormal(), divergence=Adversarial()).divergence
    Adversarial()
    """

    needs = {"prior": "density"}

    def __init__(self, weight: float = 0.1, of: str = "prior", hidden: int = 64) -> None:
        self.weight = weight
        self.of = of
        self.hidden = hidden

    def build(self, sizes: Sizes) -> None:
        check_range(self, NOT_NEGATIVE, "weight")
        check_range(self, COUNT, "hidden")
        if self.of not in ("prior", "independence"):
            raise ConfigError(
                f'Adversarial needs of to be "prior" or "independence", however: {self.of!r}. Choose one.'
            )
        self.critic = reader(sizes.code, self.hidden, 1)

    def forward(self, p: Pass) -> Tensor:
        z = _codes(p)
        y = _drawn(p) if self.of == "prior" else z.detach().gather(0, torch.rand_like(z).argsort(0))
        if not self.training:
            return self.weight * _sliced(z, y)
        fixed = {name: weight.detach() for name, weight in self.critic.named_parameters()}
        paid = -torch.func.functional_call(self.critic, fixed, (z,)).mean()
        learned = softplus(self.critic(z.detach())).mean() + softplus(-self.critic(y.detach())).mean()
        return self.weight * paid + (learned - learned.detach())  # the critic's own loss: a gradient, no cost


def _codes(p: Pass) -> Tensor:
    """Codes that face the prior, as rows, at most `MOST` of them, evenly spread: `(m, dim)`."""
    return _some(p.levels[-1].z)


def _drawn(p: Pass) -> Tensor:
    """As many draws from the prior."""
    return _some(p.net.prior_given(p.batch.condition).sample(p.levels[-1].z))


def _posteriors(p: Pass) -> tuple[Tensor, Tensor]:
    """Means and scales of the same codes: both `(m, dim)`."""
    q = p.levels[-1].q
    assert q is not None
    return _some(q.mean), _some(q.stddev)


def _some(values: Tensor) -> Tensor:
    rows = values.movedim(1, -1).flatten(0, -2)
    return rows if len(rows) <= MOST else spread(rows, MOST)


def _sliced(z: Tensor, y: Tensor, directions: int = 50) -> Tensor:
    """Sliced Wasserstein distance, squared, of two sets of as many codes `(m, dim)`."""
    along = draw(z[:1].expand(directions, -1))
    along = along / along.norm(dim=1, keepdim=True)
    return ((z @ along.T).sort(0).values - (y @ along.T).sort(0).values).square().mean()
