"""A denoising autoencoder in closed form: no training loop."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Pass, Sizes, draw
from anomaly_ae.scoring.scorers import AdditiveScorer, present

__all__ = ["RandomFeatures"]


class RandomFeatures(AdditiveScorer):
    r"""Residual of a denoiser in closed form: ridge regression from random features of noisy rows to clean ones.

    .. math:: s(x) = \frac1d \lVert x - A \phi(x) \rVert^2, \quad \phi(x) = \sqrt{2/m} \cos(W x + b), \quad
        A = \arg\min E \lVert A \phi(x + \sigma u \epsilon) - x \rVert^2 + \lambda \lVert A \rVert^2

    with :math:`u` uniform in [0, 1] and :math:`\epsilon` normal. No training loop; features are bounded, so that a row
    far away is never rebuilt and its score grows with the square of the distance.

    **Shape**: a pass over `n` rows to `(n,)`, each 0 or more.

    Parameters
    ----------
    features : int >= 1, default=512
        `m`; at most four a fit row are used.
    sigma : float > 0 (standard deviations of a column), default=1
        Largest noise.
    length : float > 0, default=1
        Length scale in units of the square root of the number of cells.
    ridge : float > 0, default=0.001
        :math:`\lambda`, in units of the features' mean square.
    rows : int >= 1, default=8192
        Noisy rows to solve for, at most; four copies of each fit row where there are fewer.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Rahimi and Recht (2007), Random features for large-scale kernel machines, NeurIPS;
    Alain and Bengio (2014), arXiv:1211.4246 (what a denoiser's residual says).

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, RandomFeatures
    >>> AutoencoderDetector(scorer=RandomFeatures(features=256)).scorer
    RandomFeatures(features=256)
    """

    reads_net = False
    adds_steps = False
    needs_validate = False
    numbers_only = True
    frequency: Tensor
    phase: Tensor
    solution: Tensor

    def __init__(
        self, features: int = 512, sigma: float = 1.0, length: float = 1.0, ridge: float = 1e-3, rows: int = 8192
    ) -> None:
        self.features = features
        self.sigma = sigma
        self.length = length
        self.ridge = ridge
        self.rows = rows

    def build(self, sizes: Sizes) -> None:
        for name in ("features", "sigma", "length", "ridge", "rows"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"RandomFeatures needs {name} above 0, however: {getattr(self, name)!r}. Try 1.")
        d = prod(sizes.shape)
        self.unit = 2 / d
        self.register_buffer("frequency", torch.randn(d, self.features) / (self.length * d**0.5))
        self.register_buffer("phase", 2 * torch.pi * torch.rand(self.features))
        self.register_buffer("solution", torch.zeros(self.features, d))

    def learn(self, fit: Pass, validate: Pass) -> Tensor:
        x = fit.batch.x.flatten(1)
        m = min(self.features, 4 * len(x))
        copies = x[torch.randperm(len(x), device=x.device)].repeat(4, 1)[: self.rows]
        level = self.sigma * torch.rand(len(copies), 1, dtype=x.dtype, device=x.device)
        self.solution = x.new_zeros(m, x.shape[1])
        phi = self._phi(copies + level * draw(copies)).float()  # sums in float32, which is twice as quick, suffice
        gram = (phi.T @ phi).double() + self.ridge * len(copies) / m * torch.eye(m, device=x.device).double()
        solution = torch.linalg.solve(gram, (phi.T @ copies.float()).double())
        self.solution = solution.to(x.dtype).contiguous()  # products with another layout round otherwise
        return self(validate)

    def lost(self, p: Pass) -> Tensor:
        x = p.batch.x.flatten(1)
        rebuilt = self._phi(x) @ self.solution
        return present(p, (x - rebuilt).square().view_as(p.batch.x)) / x.shape[1]

    def _phi(self, x: Tensor) -> Tensor:
        m = len(self.solution)
        return (x @ self.frequency[:, :m] + self.phase[:m]).cos_() * (2 / m) ** 0.5
