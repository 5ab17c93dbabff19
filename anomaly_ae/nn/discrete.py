"""Likelihoods of what is no number, and of rows in which there is some of everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.distributions as D
from torch import Tensor, nn

from anomaly_ae.defaults import DefaultsMixin
from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Batch, Part, Pass, Sizes, group_of_cells, gumbel, pieces_of
from anomaly_ae.nn.densities import Coin, Levels, Likelihood, Routed, Shares
from anomaly_ae.nn.likelihoods import Normal
from anomaly_ae.ranges import POSITIVE, check_range

ROUNDED = 0.02  # that sums of shares may be off
TINY = 1e-12  # smallest probability; 28 nats
__all__ = ["Bernoulli", "Categorical", "Mixed", "Multinomial"]


class Bernoulli(Likelihood):
    r"""Cells that are 0 or 1: cross-entropy as a likelihood, the decoder giving log-odds.

    .. math:: -\log p(x_j|z) = -x_j \log p_j - (1 - x_j) \log(1 - p_j)

    Cells between 0 and 1 are taken by the same formula (which is then no density).

    **Shape**: parameters `(n, 1, d)` to a distribution over `(n, d)`.

    Raises
    ------
    ConfigError
        At `fit`, when cells are below 0 or above 1: their loss would fall without end.

    References
    ----------
    Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114 (appendix C.1).

    Examples
    --------
    >>> from anomaly_ae import Bernoulli
    >>> Bernoulli()
    Bernoulli()
    """

    def forward(self, params: Tensor) -> D.Distribution:
        return Coin(logits=params[:, 0], validate_args=False)

    def start(self, p: Pass) -> None:
        low, high = p.batch.x.min(), p.batch.x.max()
        if low < 0 or high > 1:
            raise ConfigError(
                f"Bernoulli needs cells from 0 to 1, however: they are from {low:.4g} to {high:.4g}. Leave numbers to "
                "Normal(), or bring them there and set preprocessing=Preprocessing(standardize=False, bend=None)."
            )

    def sample(self, px: D.Distribution) -> Tensor:
        """New rows of 0 and 1."""
        return torch.bernoulli(px.mean)

    def error(self, px: D.Distribution, x: Tensor, power: float) -> Tensor:
        own = torch.where(x >= 0.5, px.mean, 1 - px.mean)
        return torch.where(own < 0.5, -2 * own.clamp(min=TINY).log(), 0.0)


class Categorical(Likelihood):
    r"""Columns with one of `k` levels, one-hot in `k` cells: cross-entropy, a softmax in each column's cells.

    .. math:: -\log p(x_j|z) = -x_j \log p_j, \quad p = \mathrm{softmax}(\text{logits of the column's cells})

    so that a column's cells add up to minus the log-probability of its level. All columns must be categories; where a
    table's columns are not told apart, a whole row is one.

    **Shape**: parameters `(n, 1, d)` to a distribution over `(n, d)`.

    Raises
    ------
    ConfigError
        At `fit`, when some column is no category.

    References
    ----------
    Nazabal et al. (2020), Handling incomplete heterogeneous data using VAEs, arXiv:1807.03653.

    Examples
    --------
    >>> from anomaly_ae import Categorical, Mixed
    >>> Mixed(category=Categorical())
    Mixed(category=Categorical())
    """

    group: Tensor

    def build(self, sizes: Sizes) -> None:
        groups = sizes.groups or (("category", sizes.shape[0]),)
        if others := sorted({kind for kind, _ in groups if kind != "category"}):
            raise ConfigError(
                f"Categorical needs categories only, however: {others}. Use Mixed for columns of all kinds."
            )
        self.n_groups = len(groups)
        self.register_buffer("group", group_of_cells(groups), persistent=False)

    def forward(self, params: Tensor) -> D.Distribution:
        return Levels(params[:, 0], self.group, self.n_groups)

    def sample(self, px: Any) -> Tensor:
        """New rows, one-hot: a level a column, by the Gumbel-max trick."""
        return px.one_hot(px.log_p + gumbel(px.log_p))

    def error(self, px: Any, x: Tensor, power: float) -> Tensor:
        p = px.mean
        own = px.in_group(x * p)
        tail = px.in_group(torch.where(p <= own * (1 + 1e-9), p, 0.0))
        return -2 * x * tail.clamp(TINY, 1.0).log()


class Multinomial(Likelihood):
    r"""Rows that divide a whole among the columns: what share each has, by a softmax over the row.

    .. math:: -\log p(x_j|z) = -N x_j \log p_j, \quad p = \mathrm{softmax}(\text{logits of the row})

    Above what a perfect reconstruction costs, a row costs :math:`N \, KL(x \| p)` nats. Rows must be proportions:
    non-negative and adding up to 1 as the net gets them, so columns must not be standardised before.

    **Shape**: parameters `(n, 1, d)` to a distribution over `(n, d)`, whose `mean` and `mode` are the shares `p`.
    A cell's `error` is :math:`2 N (x_j \log(x_j / p_j) - x_j + p_j)`, 0 or more; a row's add up to twice the excess.

    Parameters
    ----------
    total : float > 0 (counts), default=1
        How many counts :math:`N` a row's proportions stand for: how sure they are.

    Raises
    ------
    ConfigError
        At `fit`, when `total` is not positive, or rows are no shares.

    References
    ----------
    Liang et al. (2018), Variational autoencoders for collaborative filtering, arXiv:1802.05814.

    Examples
    --------
    >>> from anomaly_ae import Multinomial
    >>> Multinomial(total=100)
    Multinomial(total=100)
    """

    def __init__(self, total: float = 1.0) -> None:
        self.total = total

    def build(self, sizes: Sizes) -> None:
        check_range(self, POSITIVE, "total")

    def forward(self, params: Tensor) -> D.Distribution:
        return Shares(params[:, 0].log_softmax(1), self.total)

    def start(self, p: Pass) -> None:
        x, mask = p.batch.x, p.batch.mask
        sums = x.sum(1) if mask is None else x.sum(1)[mask.all(1)]
        if (x < 0).any() or ((sums - 1).abs() > ROUNDED).any():
            found = f"a value of {x.min():.4g}" if (x < 0).any() else f"sums from {sums.min():.4g} to {sums.max():.4g}"
            raise ConfigError(
                f"Multinomial needs rows of shares that add up to 1, however: {found}. Divide rows by their sums, and "
                "set preprocessing=Preprocessing(standardize=False, bend=None)."
            )

    def lost(self, px: D.Distribution, x: Tensor) -> Tensor:
        # what is missing from a share is in others: with what is there less than expected, none is below 0
        return self.total * (torch.xlogy(x, x) - x + px.mean) - px.log_prob(x)

    def error(self, px: D.Distribution, x: Tensor, power: float) -> Tensor:
        return 2 * self.lost(px, x)


class Mixed(DefaultsMixin, Likelihood):
    r"""A likelihood for each kind of column: numbers, columns of 0 and 1, and categories.

    .. math:: \log p(x|z) = \sum_{j \text{ numeric}} \log p(x_j|z) + \sum_{j \text{ binary}} \log p(x_j|z)
        + \sum_{j \text{ category}} \log p(x_j|z)

    Where a table's columns are not told apart, all are numbers.

    **Shape**: parameters `(n, n_params, d)` to a distribution over `(n, d)`; `n_params`, known after `build`, is the
    largest of the parts'.

    Parameters
    ----------
    numeric, binary, category : likelihood or None, default=None
        `None` is `Normal()`, `Bernoulli()` and `Categorical()`.

    Raises
    ------
    ConfigError
        At `fit`, when a part refuses its values or its columns.

    References
    ----------
    Nazabal et al. (2020), Handling incomplete heterogeneous data using VAEs, arXiv:1807.03653.

    Examples
    --------
    >>> from anomaly_ae import LearnedNormal, Mixed, VAEDetector
    >>> VAEDetector(likelihood=Mixed(numeric=LearnedNormal())).likelihood
    Mixed(numeric=LearnedNormal())
    """

    KINDS: ClassVar[dict[str, type[Likelihood]]] = {"numeric": Normal, "binary": Bernoulli, "category": Categorical}

    defaults: Any
    order: Tensor

    def __init__(
        self,
        numeric: Likelihood | None = None,
        binary: Likelihood | None = None,
        category: Likelihood | None = None,
    ) -> None:
        self.numeric = numeric
        self.binary = binary
        self.category = category

    @property
    def n_params(self) -> int:
        return max(self.part(kind).n_params for kind in self.kinds)

    @property
    def offers(self) -> frozenset[str]:  # type: ignore[override]
        return Normal.offers if self.numeric is None else getattr(self.numeric, "offers", frozenset())

    def pieces(self) -> list[Part]:
        return pieces_of(self, [part for kind in self.KINDS if (part := getattr(self, kind)) is not None])

    def part(self, kind: str) -> Likelihood:
        """The likelihood of the cells of `kind`."""
        given: Likelihood | None = getattr(self, kind)
        return self.defaults[kind] if given is None else given

    def _default(self, name: str) -> Likelihood | None:
        return self.KINDS[name]() if name in self.KINDS else None

    def cells(self, kind: str) -> Tensor:
        """Where the cells of `kind` stand in a row."""
        return getattr(self, f"{kind}_cells")

    def build(self, sizes: Sizes) -> None:
        of_cell = sizes.kinds
        self.kinds = [kind for kind in self.KINDS if kind in of_cell]
        self.defaults = nn.ModuleDict({k: self.KINDS[k]() for k in self.kinds if getattr(self, k) is None})
        for kind in self.kinds:
            cells = torch.tensor([j for j, other in enumerate(of_cell) if other == kind])
            self.register_buffer(f"{kind}_cells", cells, persistent=False)
            own = tuple(group for group in sizes.columns if group[0] == kind)
            self.part(kind).build(replace(sizes, shape=(len(cells), *sizes.shape[1:]), groups=own))
        order = torch.cat([self.cells(kind) for kind in self.kinds]).argsort()
        self.register_buffer("order", order, persistent=False)

    @property
    def alone(self) -> Likelihood | None:
        """The one likelihood of all cells, where there is only one kind: it then answers by itself."""
        return self.part(self.kinds[0]) if len(self.kinds) == 1 else None

    def forward(self, params: Tensor) -> D.Distribution:
        if self.alone is not None:
            return self.alone(params)
        cells = {kind: self.cells(kind) for kind in self.kinds}
        parts = {kind: self.part(kind)(params.index_select(2, at)) for kind, at in cells.items()}
        return Routed(parts, cells, self.order)

    def sample(self, px: Any) -> Tensor:
        """New rows, each cell by its own kind."""
        if self.alone is not None:
            return self.alone.sample(px)
        return px.join(lambda kind, own: self.part(kind).sample(own))

    def error(self, px: Any, x: Tensor, power: float) -> Tensor:
        if self.alone is not None:
            return self.alone.error(px, x, power)
        return px.join(lambda kind, own: self.part(kind).error(own, x.index_select(1, self.cells(kind)), power))

    def has(self, hook: str) -> bool:
        return super().has(hook) and any(self.part(kind).has(hook) for kind in self.kinds)

    def start(self, p: Pass) -> None:
        for part, own in self._own(p):
            part.start(own)

    def after_step(self, p: Pass) -> None:
        for part, own in self._own(p):
            part.after_step(own)

    def _own(self, p: Pass) -> Iterator[tuple[Likelihood, Pass]]:
        """Each part, with the pass over its own cells."""
        if self.alone is not None:
            yield self.alone, p
            return
        px: Any = p.px
        for kind in self.kinds:
            yield self.part(kind), replace(p, batch=_only(p.batch, self.cells(kind)), px=px.parts[kind])


def _only(batch: Batch, cells: Tensor) -> Batch:
    mask = None if batch.mask is None else batch.mask.index_select(1, cells)
    return replace(batch, x=batch.x.index_select(1, cells), mask=mask)
