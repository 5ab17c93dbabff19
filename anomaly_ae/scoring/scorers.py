"""Scorers: how strange a pass is. Larger is stranger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Part, Pass, Sizes, by_members, feature_mean, pieces_of, present, row_sum
from anomaly_ae.ranges import POSITIVE, SHARE, check_range

__all__ = ["ReconstructionError", "StandardizedError", "WeightedSum"]

SMALLEST = 1e-6  # mean square of a column rebuilt perfectly
TURNS = 16  # passes that hide booleans and categories


class Steps(NamedTuple):
    """What is said of each time step by itself: scores `(n, time)` and cells `(n, channels, time)`.

    `gaps` says that absent cells count for nothing, so that the rest of a window is to be scaled up.
    """

    scores: Tensor
    cells: Tensor
    gaps: bool


class Scorer(Part):
    """What all scorers share: they add, scale, and say how much each cell contributes.

    `a + b` and `2 * a` are a `WeightedSum`. `unit` is what one nat is worth in the scorer's own units, once built: what
    no net can judge is charged in nats (see `Preprocessing`). `numbers_only` says that it means little where some
    columns are categories, `searches` that it is quicker with many rows at once, `adds_steps` that its
    score of a window is the sum of what it says of each step: a net with a code a step then reads a series in one pass.
    """

    reads_net: bool = True  # whether it looks at more of a pass than the rows
    needs_validate: bool = True  # whether rows that were held out teach it something
    numbers_only: ClassVar[bool] = False
    searches: ClassVar[bool] = False
    comparable: ClassVar[bool] = False  # whether it sees a cell's error in units of what is usual for that cell
    signed: ClassVar[bool] = False  # whether scores may be below 0
    adds_steps: bool = False
    unit: float = 1.0

    def teach(self, known: Pass) -> None:
        """Be told rows that are known for anomalies, before it learns; most have no use for them."""

    def learn(self, fit: Pass, validate: Pass) -> Tensor:
        """Learn from passes over fit and validate rows; say what the latter score as if they were new: `(m,)`."""
        return self(validate)

    def remember(self, p: Pass) -> Tensor:
        """Take in calibrate rows as well, once learned; say what each scores as if it were new: `(n,)`."""
        return self(p)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # what was learned may be of another size than what build made
        for name, buffer in list(self.named_buffers(recurse=False)):
            found = state_dict.get(prefix + name)
            if found is not None and found.shape != buffer.shape:
                setattr(self, name, torch.empty_like(found, dtype=buffer.dtype, device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def insists(self) -> bool:
        """Whether what it has learned says that it should be heard of all rows, though it be a guard (`Fused`)."""
        return False

    def price(self, nats: NDArray[np.float64]) -> Any:
        """What one nat is worth in rows that are charged so many, `(n,)`, or in any row: what no net can judge."""
        return self.unit

    def contributions(self, p: Pass) -> Tensor:
        r"""What each cell lost by not being what was expected, in nats: `(n, ...)`, each 0 or more.

        .. math:: c_j = \log p(\hat x_j | z) - \log p(x_j | z)

        of shares of a whole (`Multinomial`) what they differ by, which adds up to the same.
        """
        return by_members(p, lambda q: present(q, q.net.likelihood.lost(q.px, q.batch.x)))

    def judged(self, p: Pass) -> tuple[Tensor, Tensor]:
        """Scores and contributions, for those who want both."""
        return self(p), self.contributions(p)

    def by_step(self, p: Pass) -> list[Steps]:
        """What each time step of windows adds to their scores, where `adds_steps`."""
        raise NotImplementedError

    def __add__(self, other: Scorer) -> WeightedSum:
        mine, theirs = _terms(self), _terms(other)
        return WeightedSum([s for s, _ in mine + theirs], [w for _, w in mine + theirs])

    def __mul__(self, weight: float) -> WeightedSum:
        return WeightedSum([s for s, _ in _terms(self)], [weight * w for _, w in _terms(self)])

    __rmul__ = __mul__


class AdditiveScorer(Scorer):
    """A scorer whose score is the sum of what present cells say, scaled up in rows with gaps.

    A subclass has `cells`, by one member's pass, or `lost`, by all of them.
    """

    adds_steps = True

    def cells(self, p: Pass) -> Tensor:
        """What each cell contributes by one member, 0 where it is absent: `(n, ...)`."""
        raise NotImplementedError

    def lost(self, p: Pass) -> Tensor:
        """What each cell contributes by all members."""
        return by_members(p, self.cells)

    def forward(self, p: Pass) -> Tensor:
        return self.judged(p)[0]

    def contributions(self, p: Pass) -> Tensor:
        return made_up(p, self.lost(p))

    def by_step(self, p: Pass) -> list[Steps]:
        cells = self.lost(p)
        return [Steps(cells.sum(1), cells, True)]

    def judged(self, p: Pass) -> tuple[Tensor, Tensor]:
        cells = self.contributions(p)
        return row_sum(cells), cells


class ReconstructionError(AdditiveScorer):
    r"""Mean over the present columns of the reconstruction's error.

    .. math:: s(x) = \frac1d \sum_j e_j, \quad
        e_j = |x_j - \hat x_j|^p \text{ or } -2 \log P\bigl(p(X_j) \le p(x_j)\bigr)

    the power in standardised columns of numbers, and of booleans and categories how unlikely a level is that is as
    unlikely or more: the squared error of a unit normal has the same tails. The contributions add up to the score
    exactly.

    **Shape**: a pass over `n` rows to `(n,)`, each 0 or more.

    Parameters
    ----------
    power : float > 0, default=2
        2 is the squared error, 1 the absolute error.

    Raises
    ------
    ConfigError
        At `fit`, when `power` is not positive.

    References
    ----------
    Hawkins et al. (2002), Outlier detection using replicator neural networks, DaWaK.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, ReconstructionError
    >>> AutoencoderDetector(scorer=ReconstructionError(power=1)).scorer
    ReconstructionError(power=1)
    """

    def __init__(self, power: float = 2.0) -> None:
        self.power = power

    def build(self, sizes: Sizes) -> None:
        check_range(self, POSITIVE, "power")
        self.terms = len(sizes.columns) * prod(sizes.shape[1:])
        self.unit = 2 / self.terms

    def cells(self, p: Pass) -> Tensor:
        return present(p, p.net.likelihood.error(p.px, p.batch.x, self.power)) / self.terms


class StandardizedError(AdditiveScorer):
    r"""Errors of all columns on one scale, in nats: each number's in units of what validate rows show.

    .. math:: s(x) = \sum_j c_j, \quad
        c_j = \frac{(x_j - \hat x_j)^2}{2 s_j^2} \text{ or } -\log P\bigl(p(X_j) \le p(x_j)\bigr), \quad
        s_j^2 = (1 - \lambda) m_j + \lambda \bar m

    with :math:`m_j` the mean square of the column's residual on validate rows (of a channel's, over all time steps, in
    windows) and :math:`\bar m` the mean over all columns of numbers; booleans and categories pay for how unlikely the
    other columns make them: their own cells are hidden, one further pass for each such column, or for every sixteenth
    together where there are more. The contributions add up to the score exactly.

    **Shape**: a pass over `n` rows to `(n,)`, each 0 or more.

    Parameters
    ----------
    shrinkage : float in [0, 1], default=1
        :math:`\lambda`: 0 gives each column of numbers its own scale, 1 all of them one.
    conditional : bool, default=True
        Hide a boolean or category from the net while it is judged; without, a net that copies what it sees is lenient.

    Raises
    ------
    ConfigError
        At `fit`, when `shrinkage` is out of range.

    References
    ----------
    Garg et al. (2021), An evaluation of anomaly detection and diagnosis in multivariate time series, arXiv:2109.11428
    (what the scoring of residuals decides); Yin et al. (2024), MCM: masked cell modeling for anomaly detection in
    tabular data, ICLR.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, StandardizedError
    >>> AutoencoderDetector(scorer=StandardizedError(shrinkage=0)).scorer
    StandardizedError(shrinkage=0)
    """

    square: Tensor
    numeric: Tensor

    comparable = True

    def __init__(self, shrinkage: float = 1.0, conditional: bool = True) -> None:
        self.shrinkage = shrinkage
        self.conditional = conditional

    def build(self, sizes: Sizes) -> None:
        check_range(self, SHARE, "shrinkage")
        groups = sizes.columns
        ends = np.cumsum([width for _, width in groups]).tolist()
        self.discrete = [slice(end - k, end) for (kind, k), end in zip(groups, ends, strict=True) if kind != "numeric"]
        numeric = torch.ones(sizes.per_feature, dtype=torch.bool)
        for cells in self.discrete:
            numeric[cells] = False
        self.register_buffer("numeric", numeric, persistent=False)
        self.register_buffer("square", torch.ones(sizes.per_feature))

    def learn(self, fit: Pass, validate: Pass) -> Tensor:
        p = validate
        errors = by_members(p, lambda q: q.net.likelihood.error(q.px, q.batch.x, 2))
        mean = feature_mean(errors, p.batch.mask).nan_to_num(nan=0.0)
        live = mean[self.numeric & (mean > SMALLEST)]  # constant columns have no say
        square = (1 - self.shrinkage) * mean + self.shrinkage * (live.mean() if len(live) else 1.0)
        self.square.copy_(torch.where(self.numeric, square.clamp(min=SMALLEST), 1.0))
        return self(validate)

    def cells(self, p: Pass) -> Tensor:
        return present(p, self._errors(p)) * (0.5 / self.square)

    def _errors(self, p: Pass) -> Tensor:
        """Squared errors and deviances, told once for all of the kind: what is hidden costs passes of its own."""
        key = "errors", self.conditional
        if key not in p.notes or p.notes[key][0] is not p.px:
            errors = p.net.likelihood.error(p.px, p.batch.x, 2)
            p.notes[key] = p.px, self._conditional(p, errors) if self.conditional and self.discrete else errors
        told: Tensor = p.notes[key][1]
        return told

    def _conditional(self, p: Pass, errors: Tensor) -> Tensor:
        x = p.batch.x
        mask = torch.ones_like(x, dtype=torch.bool) if p.batch.mask is None else p.batch.mask
        for turn in range(min(TURNS, len(self.discrete))):
            hidden = torch.zeros_like(mask[:1])
            for cells in self.discrete[turn::TURNS]:
                hidden[:, cells] = True
            px = p.net(replace(p.batch, x=torch.where(hidden, 0.0, x), mask=mask & ~hidden)).px
            errors = torch.where(hidden, p.net.likelihood.error(px, x, 2), errors)
        return errors


class WeightedSum(Scorer):
    r"""A weighted sum of scores.

    .. math:: s(x) = \sum_i w_i s_i(x)

    **Shape**: a pass over `n` rows to `(n,)`.

    Parameters
    ----------
    scorers : sequence of scorers
        What to add up.
    weights : sequence of float or None, default=None
        One weight a scorer; `None` is 1 for each.

    Raises
    ------
    ConfigError
        At `fit`, when there is no scorer, or not one weight of 0 or more for each.

    References
    ----------
    Aggarwal and Sathe (2015), Theoretical foundations and algorithms for outlier ensembles, SIGKDD Explorations.

    Examples
    --------
    >>> from anomaly_ae import KLScore, ReconstructionError, WeightedSum
    >>> WeightedSum([ReconstructionError(), KLScore()], weights=[1, 0.5])
    WeightedSum(scorers=[ReconstructionError(), KLScore()], weights=[1, 0.5])
    """

    signed = True

    def __init__(self, scorers: Sequence[Scorer] = (), weights: Sequence[float] | None = None) -> None:
        self.scorers = scorers
        self.weights = weights

    def pieces(self) -> list[Part]:
        return pieces_of(self, self.scorers)

    def build(self, sizes: Sizes) -> None:
        weights = weights_of(self)
        if not self.scorers or len(weights) != len(self.scorers) or not min(weights) >= 0 < sum(weights) < np.inf:
            raise ConfigError(
                "WeightedSum needs scorers and for each a weight of 0 or more, one of them above 0, however: "
                f"{len(self.scorers)} scorers, weights {self.weights!r}. Give each scorer one weight."
            )
        self.terms = nn.ModuleList(self.scorers)
        for scorer in self.scorers:
            scorer.build(sizes)
        self.unit = sum(weight * scorer.unit for scorer, weight in _terms(self))

    @property
    def adds_steps(self) -> bool:  # type: ignore[override]
        return all(scorer.adds_steps for scorer in self.scorers)

    @property
    def numbers_only(self) -> bool:  # type: ignore[override]
        return all(scorer.numbers_only for scorer in self.scorers)

    def teach(self, known: Pass) -> None:
        for scorer, _ in _terms(self):
            scorer.teach(known)

    def learn(self, fit: Pass, validate: Pass) -> Tensor:
        return torch.stack([weight * scorer.learn(fit, validate) for scorer, weight in _terms(self)]).sum(0)

    def remember(self, p: Pass) -> Tensor:
        return torch.stack([weight * scorer.remember(p) for scorer, weight in _terms(self)]).sum(0)

    def forward(self, p: Pass) -> Tensor:
        return torch.stack([weight * scorer(p) for scorer, weight in _terms(self)]).sum(0)

    def contributions(self, p: Pass) -> Tensor:
        return torch.stack([weight * scorer.contributions(p) for scorer, weight in _terms(self)]).sum(0)

    def by_step(self, p: Pass) -> list[Steps]:
        return [
            Steps(weight * scores, weight * cells, gaps)
            for scorer, weight in _terms(self)
            for scores, cells, gaps in scorer.by_step(p)
        ]


def divided(score: Tensor, cells: Tensor) -> Tensor:
    """Scores `(n,)` divided among cells `(n, ...)` as these are to each other; evenly where all are 0."""
    whole = row_sum(cells).view(-1, *[1] * (cells.dim() - 1))
    share = torch.where(whole > 0, cells / whole.clamp(min=1e-300), 1 / cells[0].numel())
    return share * score.view_as(whole)


def divided_among(p: Pass, score: Tensor, cells: Tensor) -> Tensor:
    """Scores divided among the cells `(n, ...)` that a row has; a row without any blames none."""
    return present(p, divided(score, present(p, cells)))


def made_up(p: Pass, cells: Tensor) -> Tensor:
    """Cells `(n, ...)` of rows with gaps scaled up, as if those that are absent were like those that are present."""
    if p.batch.mask is None:
        return cells
    share = p.batch.mask.flatten(1).to(cells.dtype).mean(1).clamp(min=1 / cells[0].numel())
    return cells / share.view(-1, *[1] * (cells.dim() - 1))


def weights_of(part: Any) -> list[float]:
    """The weights of a part that puts `scorers` together: 1 for each where none are set."""
    return [1.0] * len(part.scorers) if part.weights is None else list(part.weights)


def _terms(scorer: Scorer) -> list[tuple[Scorer, float]]:
    if not isinstance(scorer, WeightedSum):
        return [(scorer, 1.0)]
    return list(zip(scorer.scorers, weights_of(scorer), strict=True))
