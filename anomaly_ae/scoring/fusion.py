"""Several scorers as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anomaly_ae.compiled import pays
from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Batch, Part, Pass, Sizes, pieces_of
from anomaly_ae.ranges import POSITIVE, is_within
from anomaly_ae.scoring.scorers import Scorer, divided_among, weights_of

__all__ = ["Fused", "Largest"]

KNOTS = 33
NARROW = 1e-12  # knots that are no further apart are the same
TAIL = 0.1  # share of validate rows whose excess says how fast the tail falls
FEWEST = 10  # but no fewer than so many rows
SMALLEST = 1e-9  # scores below it are alike, and
ALIKE = 1e-3  # those below this share of the smallest above 0 on validate rows: rounding, not distance
UNHEARD, LOUD = math.log(100), 0.5  # nats up to which guards say nothing, and how much each counts beyond
WIDE = 4.0  # how much it counts of all rows, where fit rows are fewer than their cells
UNEVEN = 4.0  # how much of all rows, where it insists
UNLIKE = 0.3  # what a nat of a gap or an unseen level counts beside nats of a tail, in a table with categories
STEEPEST = 1e-2  # mean excess in log-score; a tail that falls faster is taken to fall as fast


class Fused(Scorer):
    r"""The sum of what each scorer thinks of how rare its score is, in nats.

    .. math:: s(x) = \sum_i w_i n_i(x) + \tfrac12 \sum_g \max(0, n_g(x) - \log 100), \quad
        n_i(x) = -\log \hat P(S_i \ge s_i(x))

    The tail probability of a scorer comes from validate rows: their ranks up to the .9 quantile `q`, and beyond it an
    exponential in the logarithm of the score, :math:`\log P = \log .1 - (\log s - \log q) / e` with `e` the mean
    excess; so that it goes on growing where no validate row has been. The contributions add up to the score exactly:
    each scorer's nats are divided as it divides its own score.

    **Shape**: a pass over `n` rows to `(n,)`, each 0 or more.

    Parameters
    ----------
    scorers : sequence of scorers
        What to fuse. Scores that may be below 0 are first counted from as far below their smallest on validate rows as
        that is below their median. On a table with categories those that compare numbers only (neighbours,
        `LocalDenoiser`, linear ones) look at the numbers and booleans alone, and as guards: what they know nothing of
        would be drowned. Where columns are a condition, of which they know nothing, they are left out.

    weights : sequence of float > 0 or None, default=None
        How much each scorer's nats count; `None` is 1 for each.
    guards : sequence of scorers, default=()
        Scorers that are heard only where a row is stranger to them than 99 of 100 validate rows: what they are sure of
        counts, and what they think of other rows blurs nothing. Where there are fewer fit rows than numbers in a row,
        distances between rows tell little: guards are heard of all rows then, and count 4. So is one of distances that
        are seen beside the local density (`Neighbours(correction=1)`) where rows lie much denser in some places than
        in others, their distances to neighbours at the .9 quantile more than eight times those at the .1 quantile:
        what is far off where a machine idles is near where it runs. In tables with categories no guard is.

    Raises
    ------
    ConfigError
        At `fit`, when there is no scorer, or not one positive weight for each.

    References
    ----------
    Fisher (1925), Statistical methods for research workers (the sum of logarithms of p-values);
    Aggarwal and Sathe (2015), Theoretical foundations and algorithms for outlier ensembles, SIGKDD Explorations.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, Fused, Neighbours, StandardizedError
    >>> AutoencoderDetector(scorer=Fused([StandardizedError(), Neighbours(k=1)])).scorer
    Fused(scorers=[StandardizedError(), Neighbours(k=1)])
    """

    judges: Any
    knots: Tensor
    level: Tensor
    excess: Tensor
    origin: Tensor
    floor: Tensor
    heard: Tensor

    def __init__(
        self,
        scorers: Sequence[Scorer] = (),
        weights: Sequence[float] | None = None,
        guards: Sequence[Scorer] = (),
    ) -> None:
        self.scorers = scorers
        self.weights = weights
        self.guards = guards

    def pieces(self) -> list[Part]:
        return [*pieces_of(self, self.scorers), *pieces_of(self, self.guards)[1:]]

    def build(self, sizes: Sizes) -> None:
        if not self.scorers:
            raise ConfigError(f"Fused needs scorers, however: {self.scorers!r}. Give one or more.")
        weights = weights_of(self)
        if len(weights) != len(self.scorers) or not all(is_within(weight, POSITIVE) for weight in weights):
            raise ConfigError(
                f"Fused needs a weight above 0 for each of {len(self.scorers)} scorers, however: {self.weights!r}. "
                "Give as many, or None."
            )
        pairs, guards = list(zip(self.scorers, weights, strict=True)), list(self.guards)
        alone = all(scorer.numbers_only for scorer in self.scorers)
        mixed = ("category" in sizes.kinds or sizes.context > 0) and not alone
        if mixed:
            pairs = [(scorer, weight) for scorer, weight in pairs if not scorer.numbers_only]
            guards = [*(scorer for scorer in self.scorers if scorer.numbers_only), *guards]
            if sizes.context or set(sizes.kinds) == {"category"}:
                guards = [guard for guard in guards if not guard.numbers_only]
            guards = [_OfNumbers(guard) if guard.numbers_only else guard for guard in guards]
        judges = [*(scorer for scorer, _ in pairs), *guards]
        self.judges = nn.ModuleList(judges)
        self.counts = [float(weight) for _, weight in pairs] + [LOUD] * len(guards)
        self.unheard = [0.0] * len(pairs) + [UNHEARD] * len(guards)
        for scorer in judges:
            scorer.build(sizes)
        self.is_mixed = mixed
        usual = UNLIKE if mixed else 1.0
        self.unit = usual * sum(self.counts[: len(pairs)]) if len(judges) > 1 else judges[0].unit
        self.register_buffer("knots", torch.zeros(len(judges), KNOTS))
        self.register_buffer("level", torch.linspace(0, 1 - TAIL, KNOTS))
        self.register_buffer("excess", torch.ones(len(judges)))
        self.register_buffer("origin", torch.zeros(len(judges)))
        self.register_buffer("floor", torch.full((len(judges),), SMALLEST))
        self.register_buffer("heard", torch.zeros(len(judges)))  # how much a guard counts of all rows, or 0

    def price(self, nats: NDArray[np.float64]) -> Any:
        # beside categories, whose nats count for less, guards speak of numbers alone: for the rest this is as loud
        if not self.is_mixed or len(self.judges) == 1:
            return self.unit
        guards = sum(unheard > 0 for unheard in self.unheard)
        beyond = LOUD * max(1, guards) * (nats - UNHEARD).clip(min=0)
        return self.unit + beyond / np.maximum(nats, UNHEARD)

    def teach(self, known: Pass) -> None:
        for judge in self.judges:
            judge.teach(known)

    def learn(self, fit: Pass, validate: Pass) -> Tensor:
        if len(self.judges) == 1:
            return self.judges[0].learn(fit, validate)
        scores = [scorer.learn(fit, validate) for scorer in self.judges]
        wide = len(fit.batch.x) < fit.batch.x[0].numel()
        for i, scorer in enumerate(self.judges):
            guards = self.unheard[i] and not self.is_mixed
            self.heard[i] = 0.0 if not guards else WIDE if wide else UNEVEN if scorer.insists() else 0.0
        for i, scorer in enumerate(self.judges):
            if scorer.signed:
                self.origin[i] = 2 * scores[i].min() - scores[i].median()
            above = scores[i][scores[i] > self.origin[i] + SMALLEST] - self.origin[i]
            self.floor[i] = max(SMALLEST, ALIKE * float(above.min())) if len(above) else SMALLEST
        held_out = [self._log(i, score) for i, score in enumerate(scores)]
        top = max(0.5, min(1 - TAIL, 1 - FEWEST / len(held_out[0])))
        self.level = torch.linspace(0, top, KNOTS, dtype=self.knots.dtype, device=self.knots.device)
        for i, logs in enumerate(held_out):
            self.knots[i] = logs.quantile(self.level.to(logs.dtype))
            beyond = logs[logs > self.knots[i, -1]] - self.knots[i, -1]
            self.excess[i] = beyond.mean().clamp(min=STEEPEST) if len(beyond) else 1.0
        return sum(self._nats(i, logs) for i, logs in enumerate(held_out))  # type: ignore[return-value]

    def remember(self, p: Pass) -> Tensor:
        return self._fused([judge.remember(p) for judge in self.judges])

    def forward(self, p: Pass) -> Tensor:
        return self._fused([judge(p) for judge in self.judges])

    def _fused(self, scores: Sequence[Tensor]) -> Tensor:
        if len(scores) == 1:
            return scores[0]
        return torch.stack([self._nats(i, self._log(i, score)) for i, score in enumerate(scores)]).sum(0)

    def contributions(self, p: Pass) -> Tensor:
        return self.judged(p)[1]

    def judged(self, p: Pass) -> tuple[Tensor, Tensor]:
        if len(self.judges) == 1:
            return self.judges[0].judged(p)
        scores, total = [], torch.zeros_like(p.batch.x)
        for i, judge in enumerate(self.judges):
            score, cells = judge.judged(p)
            scores.append(self._nats(i, self._log(i, score)))
            total += divided_among(p, scores[-1], cells.clamp(min=0))
        return torch.stack(scores).sum(0), total

    def _nats(self, i: int, logs: Tensor) -> Tensor:
        """Weighted -log P of scores by their logarithms, `(n,)`: linear between knots, so that ranks make no steps."""
        inside = self._interpolated(logs, self.knots[i], -torch.log1p(-self.level))
        nats = inside + (logs - self.knots[i, -1]).clamp(min=0) / self.excess[i]
        if (heard := float(self.heard[i])) > 0:
            return heard * nats
        return self.counts[i] * (nats - self.unheard[i]).clamp(min=0)

    def _interpolated(self, x: Tensor, knots: Tensor, levels: Tensor) -> Tensor:
        if x.is_inference() and x.device.type == "cpu" and x.dtype == knots.dtype and pays(len(x) * KNOTS):
            from anomaly_ae import loops

            y = torch.empty_like(x)
            loops.interpolated(x.numpy(), knots.numpy(), levels.numpy(), NARROW, y.numpy())
            return y
        right = torch.searchsorted(knots, x.contiguous()).clamp(1, KNOTS - 1)
        gap = (knots[right] - knots[right - 1]).clamp(min=NARROW)
        along = ((x - knots[right - 1]) / gap).clamp(0, 1)
        return levels[right - 1] + along * (levels[right] - levels[right - 1])

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
        wide = WIDE * float(state.pop(f"{prefix}wide", 0.0))  # as models had it, if they had any
        state.setdefault(f"{prefix}heard", torch.tensor([wide if unheard else 0.0 for unheard in self.unheard]))
        super()._load_from_state_dict(state, prefix, *args)

    def _log(self, i: int, scores: Tensor) -> Tensor:
        return torch.maximum(scores - self.origin[i], self.floor[i]).log()


class Largest(Scorer):
    r"""The largest of what columns contribute to a scorer, in place of their sum.

    .. math:: s(x) = \max_j c_j(x)

    One sensor among a hundred that is wrong is drowned by what the others say of themselves, unless each is asked
    alone. All is contributed by that column, or that channel of a window.

    **Shape**: a pass over `n` rows to `(n,)`, each 0 or more.

    Parameters
    ----------
    scorer : scorer
        Whose contributions count. None that remembers rows: what these divide is no verdict on a column.

    Raises
    ------
    ConfigError
        At `fit`, when there is no scorer, or one that remembers rows.

    References
    ----------
    Hawkins (1991), Multivariate quality control based on regression-adjusted variables, Technometrics 33 (that is
    `Largest(Mahalanobis())`: each column against what all others let expect).

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, Largest, Mahalanobis
    >>> AutoencoderDetector(scorer=Largest(Mahalanobis())).scorer
    Largest(scorer=Mahalanobis())
    """

    def __init__(self, scorer: Any = None) -> None:
        self.scorer = scorer

    def pieces(self) -> list[Part]:
        return [self, *self.scorer.pieces()] if isinstance(self.scorer, Part) else [self]

    def build(self, sizes: Sizes) -> None:
        inner = self.scorer.pieces() if isinstance(self.scorer, Scorer) else []
        if not inner or any(getattr(piece, "searches", False) or isinstance(piece, Fused) for piece in inner):
            raise ConfigError(
                f"Largest needs a scorer whose columns are judged by themselves, however: {self.scorer!r}. Give one, "
                "as StandardizedError() or Mahalanobis()."
            )
        self.scorer.build(sizes)
        self.unit = self.scorer.unit

    @property
    def reads_net(self) -> bool:  # type: ignore[override]
        return bool(self.scorer.reads_net)

    @property
    def numbers_only(self) -> bool:  # type: ignore[override]
        return bool(self.scorer.numbers_only)

    def learn(self, fit: Pass, validate: Pass) -> Tensor:
        self.scorer.learn(fit, validate)
        return self(validate)

    def forward(self, p: Pass) -> Tensor:
        return self._of_columns(p)[1].amax(1)

    def contributions(self, p: Pass) -> Tensor:
        return self.judged(p)[1]

    def judged(self, p: Pass) -> tuple[Tensor, Tensor]:
        cells, columns = self._of_columns(p)
        score, which = columns.max(1)
        largest = torch.zeros_like(columns).scatter_(1, which[:, None], 1.0)
        return score, cells * largest.view(*columns.shape, *[1] * (cells.dim() - 2))

    def _of_columns(self, p: Pass) -> tuple[Tensor, Tensor]:
        """What cells contribute `(n, d, ...)`, and their columns or channels `(n, d)`."""
        cells = self.scorer.contributions(p)
        return cells, cells.flatten(2).sum(2) if cells.dim() > 2 else cells


class _OfNumbers(Scorer):
    """A scorer of numbers in a table with categories: it sees the numbers and booleans alone."""

    places: Tensor

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    @property
    def searches(self) -> bool:  # type: ignore[override]
        return self.scorer.searches

    def build(self, sizes: Sizes) -> None:
        places = [place for place, kind in enumerate(sizes.kinds) if kind != "category"]
        self.register_buffer("places", torch.tensor(places), persistent=False)
        self.scorer.build(Sizes((len(places), *sizes.shape[1:])))
        self.unit = self.scorer.unit

    def teach(self, known: Pass) -> None:
        self.scorer.teach(self._seen(known))

    def learn(self, fit: Pass, validate: Pass) -> Tensor:
        return self.scorer.learn(self._seen(fit), self._seen(validate))

    def remember(self, p: Pass) -> Tensor:
        return self.scorer.remember(self._seen(p))

    def forward(self, p: Pass) -> Tensor:
        score: Tensor = self.scorer(self._seen(p))
        return score

    def contributions(self, p: Pass) -> Tensor:
        return self.judged(p)[1]

    def judged(self, p: Pass) -> tuple[Tensor, Tensor]:
        score, cells = self.scorer.judged(self._seen(p))
        return score, torch.zeros_like(p.batch.x).index_copy_(1, self.places, cells)

    def _seen(self, p: Pass) -> Pass:
        """The pass with those cells alone, the same to all who ask for it: a search done once serves all."""
        if "numbers" not in p.notes:
            x, mask = (None if values is None else values[:, self.places] for values in (p.batch.x, p.batch.mask))
            p.notes["numbers"] = replace(p, batch=Batch(x, mask), notes={})  # type: ignore[arg-type]
        seen: Pass = p.notes["numbers"]
        return seen
