"""A code with a class that a few labels name, and the bound by which it learns from rows with and without them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from anomaly_ae.nn.core import LEFT_OUT, Batch, Level, Part, Pass, Sizes, codes, shared_out, total_kl
from anomaly_ae.nn.divergences import KL
from anomaly_ae.nn.latents import Gaussian
from anomaly_ae.nn.layers import Pointwise
from anomaly_ae.nn.terms import Term
from anomaly_ae.ranges import POSITIVE, PROPER_SHARE, check_range

__all__ = ["M2", "ClassGaussian"]


class ClassGaussian(Gaussian):
    r"""A normally distributed code beside a class, normal or anomalous, that a few labels name: what `M2` learns.

    .. math:: q(z|x, y) = N\bigl(\mu(h, y), \mathrm{diag}\,\sigma(h, y)^2\bigr), \quad
        q(y = 1|x) = \frac{1}{1 + e^{-w^T h - b}}

    In scoring every row is taken for normal, :math:`y = 0`: what that costs is what is strange about it. `ClassScore`
    asks for :math:`q(y|x)`. The first number of the code is the class.

    **Shape**: features `(n, features)` to a level of the class `(n, 1)`, with no distribution, and one with `q` and `z`
    of `(n, dim)`; with time steps, `(n, features, time)` to `(n, 1, time)` and `(n, dim, time)`.

    Parameters
    ----------
    dim, gamma, most
        As of `Gaussian`; the class is beside these.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Kingma, Rezende, Mohamed and Welling (2014), Semi-supervised learning with deep generative models, arXiv:1406.5298.

    Examples
    --------
    >>> from anomaly_ae import ClassGaussian, M2, VAEDetector
    >>> VAEDetector(latent=ClassGaussian(8), divergence=M2()).latent
    ClassGaussian(dim=8)
    """

    offers = Gaussian.offers | {"class"}

    def build(self, sizes: Sizes) -> None:
        super().build(replace(sizes, features=sizes.features + 1))
        self.faced, self.width = self.width, self.width + 1
        self.odds = Pointwise(sizes.features, 1)

    def forward(self, h: Tensor, prior: Part, batch: Batch) -> tuple[Level, ...]:
        known = batch.label if self.training else None
        return self.of_class(h.new_zeros(len(h)) if known is None else known.nan_to_num(0.0), h, prior, batch)

    def of_class(self, y: Tensor, h: Tensor, prior: Part, batch: Batch) -> tuple[Level, ...]:
        """Levels of rows that are taken for being of classes `y` `(n,)`: 0 is normal, 1 anomalous."""
        y = self._beside(y, h)
        return (Level(q=None, p=None, z=y), *super().forward(torch.cat([h, y], dim=1), prior, batch))

    def log_odds(self, h: Tensor) -> Tensor:
        """How much likelier features make it, in nats, that a row is anomalous than that it is normal: `(n,)`."""
        return self.odds(h).flatten(1).mean(1)

    def posterior(self, h: Tensor) -> Any:
        """What features say of the code of a normal row."""
        return super().posterior(torch.cat([h, self._beside(h.new_zeros(len(h)), h)], dim=1))

    def sample(self, n: int, prior: Any) -> Tensor:
        """Draw `n` codes of normal rows from the prior: `(n, 1 + dim)` or `(n, 1 + dim, time)`."""
        z = prior.sample(self.code.weight.new_empty(n, self.faced, *self.steps))
        return torch.cat([torch.zeros_like(z[:, :1]), z], dim=1)

    def solve(self, p: Pass) -> None:
        super().solve(replace(p, h=torch.cat([p.h, p.levels[0].z], dim=1)))

    def _beside(self, y: Tensor, h: Tensor) -> Tensor:
        return y.to(h).view(-1, 1, *[1] * len(self.steps)).expand(-1, 1, *self.steps)


class M2(Term):
    r"""The bound of rows of two classes, normal and anomalous, of which labels name a few: a semi-supervised VAE.

    .. math:: U(x) = \sum_y q(y|x) \bigl(L(x, y) + \log q(y|x)\bigr), \quad
        L(x, y) = -E_q[\log p(x|y, z)] + KL\bigl(q(z|x, y) \,\|\, p(z)\bigr) - \log p(y)

    is what a row of which nobody knows pays for its reconstruction and for this; one of known class pays
    :math:`L(x, y) - w \log q(y|x)`. Where :math:`q(y|x)` is as it should be, :math:`U` is
    :math:`-\log \sum_y e^{-L(x, y)}`: both classes are summed over, none is drawn. A step costs two decodings. A scale
    that is learned does not learn from known anomalies.

    In `y` of `fit`, -1 is a known anomaly, 1 a row that is known to be normal, 0 one of which nobody knows: the latter
    may be anomalies for all it knows. Without `y` nobody knows of any.

    **Shape**: a pass over `n` rows to `(n,)`.

    Parameters
    ----------
    weight : float > 0, default=100
        :math:`w`, which is shared out so that the known rows of a class together count as all rows of a batch do.
    share : float in (0, 1), default=0.05
        :math:`p(y = 1)`: how many of the rows of which nobody knows are anomalies.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.
    IncompatiblePartsError
        At `fit`, when the latent has no class.

    References
    ----------
    Kingma, Rezende, Mohamed and Welling (2014), Semi-supervised learning with deep generative models, arXiv:1406.5298
    (its model M2).

    Examples
    --------
    >>> from anomaly_ae import M2, ClassGaussian, ClassScore, NegativeELBO, VAEDetector
    >>> VAEDetector(latent=ClassGaussian(), divergence=M2(), scorer=NegativeELBO() + 10 * ClassScore()).divergence
    M2()
    """

    needs = {"latent": "class"}
    needs_labels = True
    deals_with = KL.deals_with
    pays_for_cells = True

    def __init__(self, weight: float = 100.0, share: float = 0.05) -> None:
        self.weight = weight
        self.share = share

    def build(self, sizes: Sizes) -> None:
        check_range(self, POSITIVE, "weight")
        check_range(self, PROPER_SHARE, "share")

    def forward(self, p: Pass) -> Tensor:
        net, y = p.net, p.levels[0].z.flatten(1)[:, 0]
        levels = net.latent.of_class(1 - y, p.h, net.prior, p.batch)
        other = replace(p, levels=levels, px=net.decode(codes(levels), p.batch.condition))
        odds = net.latent.log_odds(p.h)
        mine, theirs = logsigmoid((2 * y - 1) * odds), logsigmoid((1 - 2 * y) * odds)
        paid = net.reconstruction(p)
        own, others = self._bound(p, y, paid), self._bound(other, 1 - y, net.reconstruction(other))
        cost = mine.exp() * (own + mine) + theirs.exp() * (others + theirs)
        if p.batch.label is not None:
            p.notes[LEFT_OUT] = p.batch.label == 1
            counts = sum(shared_out(p.batch.label == kind) for kind in (0, 1))
            cost = torch.where(p.batch.label.isnan(), cost, own - self.weight * counts * mine)
        return cost - paid

    def _bound(self, p: Pass, y: Tensor, reconstruction: Tensor) -> Tensor:
        """`L(x, y)`, by the draw of the pass and what its reconstruction costs `(n,)`."""
        return reconstruction + total_kl(p) - torch.where(y > 0, self.share, 1 - self.share).log()
