"""What the output knows of the code."""

from __future__ import annotations

from math import prod

from torch import Tensor

from anomaly_ae.nn.core import Pass, Sizes, draw, row_sum
from anomaly_ae.nn.densities import normal
from anomaly_ae.nn.layers import reader
from anomaly_ae.nn.terms import Term
from anomaly_ae.ranges import COUNT, NOT_NEGATIVE, check_range

__all__ = ["MutualInformation"]


class MutualInformation(Term):
    r"""How much rows that the decoder makes tell of the codes they were made from, to be large: InfoGAN's reader.

    .. math:: -\lambda\, E_{z \sim p(z),\; x \sim p(x|z)} \log r(z \,|\, x), \qquad
              I(z; x) \ge H(z) + E \log r(z \,|\, x)

    with :math:`r` normal, its mean and scale a perceptron of the row, which learns beside the net to read codes. The
    decoder learns to write them so that they can be read, and finds a use for each latent where it would do without.
    Beside `KL()` it works against a posterior that collapses. Of a hierarchy the coarsest codes are read.

    **Shape**: a pass over `n` rows to `(n,)`, in nats.

    Parameters
    ----------
    weight : float >= 0, default=1
        :math:`\lambda`.
    hidden : int >= 1, default=64
        Width of the two hidden layers of :math:`r`.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Chen et al. (2016), InfoGAN, arXiv:1606.03657; Barber and Agakov (2003), The IM algorithm, NeurIPS.

    Examples
    --------
    >>> from anomaly_ae import KL, MutualInformation, VAEDetector
    >>> VAEDetector(divergence=KL() + MutualInformation(weight=0.5)).divergence
    Sum(terms=[KL(), MutualInformation(weight=0.5)])
    """

    needs = {"prior": "density"}

    def __init__(self, weight: float = 1.0, hidden: int = 64) -> None:
        self.weight = weight
        self.hidden = hidden

    def build(self, sizes: Sizes) -> None:
        check_range(self, NOT_NEGATIVE, "weight")
        check_range(self, COUNT, "hidden")
        self.codes = (2 * sizes.code, *sizes.steps)
        self.reader = reader(prod(sizes.shape), self.hidden, prod(self.codes))

    def forward(self, p: Pass) -> Tensor:
        condition = p.batch.condition
        z = p.net.latent.sample(len(p.batch), p.net.prior_given(condition))
        px = p.net.decode(z, condition)
        mean = px.mean
        spread = px.variance.detach().nan_to_num(posinf=1.0).sqrt()  # of heavy tails that of a standardized column
        x = mean + spread * draw(mean)
        r = normal(self.reader(x).unflatten(1, self.codes))
        return -self.weight * row_sum(r.log_prob(z[:, -(self.codes[0] // 2) :]))
