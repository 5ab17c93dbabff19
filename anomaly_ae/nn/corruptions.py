"""Corruptions: what training hides from the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Batch, Part, Sizes, draw, group_of_cells, pieces_of
from anomaly_ae.ranges import NOT_NEGATIVE, SHARE, check_range

__all__ = ["Chain", "GaussianNoise", "Masking", "Swapping"]

KINDS = ("numeric", "binary", "category")


class GaussianNoise(Part):
    r"""Add normal noise to what the encoder sees; the target stays clean: the denoising autoencoder.

    .. math:: \tilde x = x + \sigma \epsilon, \quad \epsilon \sim N(0, I)

    The best linear denoiser leaves the residual :math:`\sigma^2 (S + \sigma^2 I)^{-1} x`, a soft Mahalanobis
    distance. Only numbers get noise, and only where they are present; booleans and categories are hidden from time to
    time instead, as by `Masking`. Scoring adds and hides nothing.

    **Shape**: a batch of `(n, ...)` to the same shape.

    Parameters
    ----------
    sigma : float >= 0 (standard deviations of a column), default=0.3
        The noise's standard deviation.
    hide : float in [0, 1], default=0.3
        Probability that a boolean or category is hidden.
    per_row : bool, default=True
        Draw each row's own level uniformly from [0, `sigma`] and [0, `hide`], so that one net denoises at every level
        below it.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

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

    mixed = False
    numeric: Tensor

    def __init__(self, sigma: float = 0.3, hide: float = 0.3, per_row: bool = True) -> None:
        self.sigma = sigma
        self.hide = hide
        self.per_row = per_row

    def build(self, sizes: Sizes) -> None:
        check_range(self, NOT_NEGATIVE, "sigma")
        check_range(self, SHARE, "hide")
        numeric = [kind == "numeric" for kind in sizes.kinds]
        self.mixed = not all(numeric)
        if self.mixed:
            self.register_buffer("numeric", torch.tensor(numeric), persistent=False)
        self.masking = Masking(self.hide, self.per_row, ("binary", "category"))
        self.masking.build(sizes)

    def forward(self, batch: Batch) -> Batch:
        x = batch.x
        level = _uniform(x, 1) if self.per_row else 1.0
        noise = self.sigma * level * draw(x)
        if self.mixed:
            noise = torch.where(_beside(self.numeric, x), noise, 0.0)
        if batch.mask is not None:
            noise = torch.where(batch.mask, noise, 0.0)
        noisy = replace(batch, x=x + noise)
        return self.masking(noisy) if self.mixed and self.hide else noisy


class Masking(Part):
    r"""Hide columns from the encoder, which must then tell each from the others; the target stays whole.

    .. math:: \tilde x_j = m_j x_j, \quad m_j \sim \mathrm{Bernoulli}(1 - r)

    All cells of a category are hidden together. Hidden cells are 0 and not present in the mask of what the encoder
    sees. Scoring hides nothing.

    **Shape**: a batch of `(n, ...)` to the same shape, with a mask.

    Parameters
    ----------
    rate : float in [0, 1], default=0.2
        Probability that a column is hidden.
    per_row : bool, default=True
        Draw each row's own rate uniformly from [0, `rate`], so that one net knows every rate below it.
    kinds : sequence of {"numeric", "binary", "category"}, default=("numeric", "binary", "category")
        Columns to hide; where a table's columns are not told apart, all are numbers.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Vincent et al. (2010), Stacked denoising autoencoders, JMLR 11; He et al. (2022), Masked autoencoders are scalable
    vision learners, arXiv:2111.06377.

    Examples
    --------
    >>> from anomaly_ae import Masking
    >>> Masking(rate=0.5, per_row=False)
    Masking(per_row=False, rate=0.5)
    """

    group: Tensor
    chosen: Tensor

    def __init__(self, rate: float = 0.2, per_row: bool = True, kinds: Sequence[str] = KINDS) -> None:
        self.rate = rate
        self.per_row = per_row
        self.kinds = kinds

    def build(self, sizes: Sizes) -> None:
        _check(self)
        chosen = torch.tensor([kind in self.kinds for kind, _ in sizes.columns])
        self.register_buffer("group", group_of_cells(sizes.columns), persistent=False)
        self.register_buffer("chosen", chosen, persistent=False)

    def forward(self, batch: Batch) -> Batch:
        x = batch.x
        rate = self.rate * _uniform(x, 1) if self.per_row else self.rate
        hidden = (_uniform(x, len(self.chosen), x.shape[2:]) < rate) & _beside(self.chosen, x)
        hidden = hidden.index_select(1, self.group)
        mask = ~hidden if batch.mask is None else batch.mask & ~hidden
        return replace(batch, x=torch.where(hidden, 0.0, x), mask=mask)


class Swapping(Part):
    r"""Put another row's value in a column's place, so that what the encoder sees is plausible by itself.

    .. math:: \tilde x_{ij} = \begin{cases} x_{kj} & \text{with probability } r, \; k \ne i \text{ at random} \\
        x_{ij} & \text{otherwise} \end{cases}

    A net that may copy one-hot cells never learns which level to expect, and noise on such cells gives itself away; a
    swapped level does not, for each column keeps its distribution. A cell and whether it is present move together, and
    so do all cells of a category. Scoring swaps nothing.

    **Shape**: a batch of `(n, ...)` to the same shape.

    Parameters
    ----------
    rate : float in [0, 1], default=0.15
        Probability that a column's value is swapped.
    kinds : sequence of {"numeric", "binary", "category"}, default=("numeric", "binary", "category")
        Columns to swap; where a table's columns are not told apart, all are numbers.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Jahrer (2017), winning solution of Porto Seguro's Safe Driver Prediction, Kaggle (swap noise); Yoon et al. (2020),
    VIME: extending the success of self- and semi-supervised learning to tabular domain, NeurIPS.

    Examples
    --------
    >>> from anomaly_ae import Chain, GaussianNoise, Swapping
    >>> Chain([GaussianNoise(), Swapping(rate=0.1)])
    Chain(corruptions=[GaussianNoise(), Swapping(rate=0.1)])
    """

    group: Tensor
    chosen: Tensor

    def __init__(self, rate: float = 0.15, kinds: Sequence[str] = KINDS) -> None:
        self.rate = rate
        self.kinds = kinds

    def build(self, sizes: Sizes) -> None:
        _check(self)
        chosen = torch.tensor([kind in self.kinds for kind, _ in sizes.columns])
        self.register_buffer("group", group_of_cells(sizes.columns), persistent=False)
        self.register_buffer("chosen", chosen, persistent=False)

    def forward(self, batch: Batch) -> Batch:
        x = batch.x
        n = len(x)
        swapped = _uniform(x, len(self.chosen), x.shape[2:]) < self.rate
        swapped = swapped & _beside(self.chosen, x)
        step = torch.randint(1, max(n, 2), swapped.shape, device=x.device)  # never n, which would be the row itself
        own = torch.arange(n, device=x.device).view(-1, *[1] * (x.dim() - 1))
        donor = torch.where(swapped, (own + step) % n, own).index_select(1, self.group)
        mask = None if batch.mask is None else batch.mask.gather(0, donor)
        return replace(batch, x=x.gather(0, donor), mask=mask)


class Chain(Part):
    r"""Corruptions one after the other.

    .. math:: \tilde x = c_m(\dots c_2(c_1(x)))

    **Shape**: a batch of `(n, ...)` to the same shape.

    Parameters
    ----------
    corruptions : sequence of corruptions
        What to do, first things first.

    Raises
    ------
    ConfigError
        At `fit`, when there is no corruption.

    References
    ----------
    Vincent et al. (2010), Stacked denoising autoencoders, JMLR 11.

    Examples
    --------
    >>> from anomaly_ae import Chain, GaussianNoise, Masking
    >>> Chain([GaussianNoise(sigma=0.1), Masking()])
    Chain(corruptions=[GaussianNoise(sigma=0.1), Masking()])
    """

    def __init__(self, corruptions: Sequence[Part] = ()) -> None:
        self.corruptions = corruptions

    def pieces(self) -> list[Part]:
        return pieces_of(self, self.corruptions)

    def build(self, sizes: Sizes) -> None:
        if not self.corruptions:
            raise ConfigError(f"Chain needs corruptions, however: {self.corruptions!r}. Give one or more.")
        self.links = nn.ModuleList(self.corruptions)
        for corruption in self.corruptions:
            corruption.build(sizes)

    def forward(self, batch: Batch) -> Batch:
        for corruption in self.corruptions:
            batch = corruption(batch)
        return batch


def _check(part: Masking | Swapping) -> None:
    check_range(part, SHARE, "rate")
    if not part.kinds or isinstance(part.kinds, str) or not set(part.kinds) <= set(KINDS):
        raise ConfigError(
            f"{type(part).__name__} needs kinds from {list(KINDS)}, however: {part.kinds!r}. List one or more."
        )


def _beside(per_cell: Tensor, x: Tensor) -> Tensor:
    """What is said once a cell, in a shape that broadcasts against rows `x`."""
    return per_cell.view(1, -1, *[1] * (x.dim() - 2))


def _uniform(x: Tensor, width: int, rest: Sequence[int] | None = None) -> Tensor:
    """Uniform numbers in [0, 1), `width` a row `x`, alike over its further axes unless these are `rest`."""
    shape = (len(x), width, *([1] * (x.dim() - 2) if rest is None else rest))
    return torch.rand(shape, dtype=x.dtype, device=x.device)
