"""A fold: one net with its own encoding of the columns, trained on one split of the rows, and read block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, prod
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from torch import Tensor, nn

from anomaly_ae.data.preprocessing import Cells, Encoding
from anomaly_ae.errors import ConfigError, warn
from anomaly_ae.nn.core import Batch, Pass, Sizes, check_compatible, put_together
from anomaly_ae.nn.heads import Headed
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.stack import Stack
from anomaly_ae.nn.training import AdamW, Recipe, seeded, threads, train
from anomaly_ae.overlap import by_turns
from anomaly_ae.scoring.scorers import Scorer

Array = NDArray[np.float64]
Result = TypeVar("Result")
BLOCK = 8192  # rows a pass, at most; jobs align to it, so that resumed scores are the same to the bit
CACHED = 2**20  # cells of the widest layer of a forward pass where no scorer searches: layers stay in the cache
LEARN_ROWS = 16_384  # fit rows, and half as many validate rows, that a scorer learns from at most
FEW = 50  # rows that do not make a scorer learn again
REPAIRS = 3  # passes that a column taken away is rebuilt by: more would drive those that no other tells of far off
SPREAD = 0.95  # share of validate rows whose value lies in the expected interval


class Told(NamedTuple):
    """What labels say: of which fit rows it is known that they are normal `(n,)`, and rows known for anomalies."""

    sure: NDArray[np.bool_]
    anomalies: Array | None


class Expected(NamedTuple):
    """What a column of some rows is expected to be: its code `(n,)` and, of a number or date, half an interval."""

    code: Array
    margin: Array


@dataclass
class Fold:
    """Nets on one split, the encoding of its fit rows, and the scorer that reads their passes.

    There is one net, or `members` of an ensemble that differ by their first weights and the order of batches; codes,
    reconstructions and new rows are the first one's.

    Weights train in float32. Passes run in float64 by default: a float32 score moves in its seventh digit when the
    edges of blocks move, and the order of close rows with it. `margin` `(d,)` says how far from what is expected a
    column of validate rows lies.
    """

    encoding: Encoding
    nets: nn.ModuleList
    scorer: Scorer
    margin: Array
    dtype: torch.dtype
    stack: Stack | None = None
    optimizer: AdamW | None = None
    learned: int = 0  # rows that the scorer has learned from

    @classmethod
    def build(
        cls,
        parts: Mapping[str, Any],
        encoding: Encoding,
        device: str,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        members: int = 1,
    ) -> Fold:
        """Make an untrained fold of so many nets, read in `dtype`, from parts that nobody else holds."""
        parts = {axis: parts.get(axis) for axis in (*Net.AXES, "scorer")}  # a model of before has not all axes
        check_compatible(parts)
        scorer = parts["scorer"]
        shape, groups, told, context = (encoding.width,), encoding.groups, encoding.told, len(encoding.context)
        with put_together(parts, device), seeded(seed):
            nets = nn.ModuleList()
            for number in range(members):
                own = parts if number == 0 else {axis: part and clone(part) for axis, part in parts.items()}
                nets.append(Net(**{axis: own[axis] for axis in Net.AXES}).build(shape, told, groups, context))
            scorer.build(Sizes(shape, told, context=context, groups=groups))
            for piece in scorer.pieces():
                piece.join(nets[0])
            nets[0].rehearse()  # type: ignore[operator]
            return cls(encoding, nets.to(device), scorer.to(device), np.zeros(encoding.columns), dtype).settle()

    def settle(self) -> Fold:
        """Ready to be read: of the type for reading, nothing random."""
        self.nets.to(dtype=self.dtype).eval()
        self.scorer.to(dtype=self.dtype).eval()
        self.__dict__.pop("_device", None)
        return self

    def __getstate__(self) -> dict[str, Any]:
        # whoever loads it may have put the nets elsewhere
        return {name: value for name, value in self.__dict__.items() if name not in ("_device", "rows")}

    @cached_property
    def _device(self) -> torch.device:
        return next(self.net.parameters()).device  # to look for it takes longer than to copy a few rows

    @cached_property
    def rows(self) -> int:
        """Rows a forward pass; a search is quicker when many rows look at once."""
        searches = any(isinstance(part, Scorer) and part.searches for part in self.scorer.modules())
        if searches or self._device.type != "cpu":
            return BLOCK
        return max(1, BLOCK // ceil(BLOCK * self.widest / CACHED))

    @cached_property
    def widest(self) -> int:
        """Cells of the net's widest layer, a row."""
        layers = [len(weight) for weight in self.net.parameters() if weight.dim() > 1]
        return max(layers, default=1) * prod(self.net.sizes.shape[1:])

    @property
    def net(self) -> Any:
        """The first net."""
        return self.nets[0]

    def passed(self, batch: Batch) -> Pass:
        """The pass of the first net, with those of the others beside it."""
        first, *others = (net(batch) for net in self.nets)
        return replace(first, peers=tuple(others)) if others else first

    # --- learning ----------------------------------------------------------------------------------------------------

    def train(
        self,
        fit: Array,
        validate: Array,
        recipe: Recipe,
        seed: int,
        on_epoch: Callable[[dict[str, float]], bool] | None = None,
        remember: Array | None = None,
        told: Told | None = None,
    ) -> list[dict[str, float]]:
        """Train on codes `(n, d)`; then the scorer learns from fit and validate rows.

        With `remember`, rows of this and earlier calls, training goes on with the optimiser of the last call; once
        these are enough, the scorer learns from them and closed forms are solved for them. Parts that ask for labels
        are `told` what these say. Returns one record an epoch.
        """
        self.nets.float()
        rows, watched = (self._batch(self._cells(X)) for X in (fit, validate))
        known = rows
        if told is not None and any(part.needs_labels for axis in self.net.parts() for part in axis.pieces()):
            rows = self._labelled(fit, told)
        if remember is not None:
            enough = len(remember) >= min(FEW, self.learned)
            fit = remember if enough else remember[:0]
            known = self._batch(self._cells(fit))
        with seeded(seed, self._device):
            if self.optimizer is None and self.net.may_copy():
                warn(
                    "A net that is to tell rows apart needs something that keeps it from copying any, however: its "
                    f"code of {self.net.latent.width} is as wide as a row of {self.encoding.width} cells, and there is "
                    "no noise, penalty or divergence. Take a smaller code, or leave the corruption to the default."
                )
        with threads(self.net), seeded(seed, self._device):
            if remember is None or self.stack is None or self.optimizer is None:
                self.stack = Stack(list(self.nets))  # type: ignore[arg-type]
                self.optimizer = AdamW(self.stack.weights, recipe.weight_decay)
            watched_ = _float(watched) if len(watched) else None
            history = train(self.stack, _float(rows), watched_, recipe, on_epoch, self.optimizer, _float(known))
        self.settle()
        if not len(known):
            return history
        rows = known
        if not len(watched):  # rows that trained have to do
            watched, rows = rows.take(slice(None, None, 5)), rows if len(rows) < 2 else _but_every_fifth(rows)
        with threads(self.net), torch.inference_mode(), seeded(seed, self._device):
            if told is not None and told.anomalies is not None:
                self.scorer.teach(self.passed(self._batch(self._cells(told.anomalies))))
            some = torch.randperm(len(rows), device=self._device)[:LEARN_ROWS]
            self.scorer.learn(self.passed(rows.take(some)), self.passed(watched.take(slice(LEARN_ROWS // 2))))
        self.learned = len(rows) + len(watched)
        self.scorer.float()  # as it will be stored
        self.settle()
        self._learn_margin(validate if len(validate) else fit)
        return history

    def _labelled(self, fit: Array, told: Told) -> Batch:
        """Known anomalies, if there are any, and after them fit rows `(n, d)`, with what each is known for."""
        anomalies = fit[:0] if told.anomalies is None else told.anomalies
        label = np.concatenate([np.ones(len(anomalies)), np.where(told.sure, 0.0, np.nan)])
        batch = self._batch(self._cells(np.concatenate([anomalies, fit])))
        return replace(batch, label=torch.from_numpy(label).to(self._device, torch.float32))

    def tune(self, X: Array, label: NDArray[Any], weight: Array, bias: Array, recipe: Recipe, seed: int) -> None:
        """Have the first net's encoder learn what rows `(n, d)` are called, from the head that is given.

        `label` `(n,)` is numbers, or of classes their numbers; `weight` is `(outputs, code)`. What was made of codes
        before, the decoder and what scorers have learned, is no longer of these codes.
        """
        self.nets.float()
        head = Headed(self.net, torch.from_numpy(weight), torch.from_numpy(bias), len(X)).to(self._device).float()
        batch = _float(replace(self._batch(self._cells(X)), label=torch.from_numpy(label).to(self._device)))
        with threads(self.net), seeded(seed, self._device):
            train(Stack([head]), batch, None, recipe)  # type: ignore[list-item]
        self.settle()

    def _learn_margin(self, X: Array) -> None:
        """How far a column lies from what the others let expect, over some rows."""
        # of a wide table some columns are taken away at a time: one by one would take longer than the training
        d = self.encoding.columns
        turns = d if d <= 64 else 16
        some = X[: min(256, max(8, 4096 // turns)) if d <= 64 else 32]
        rows, turn = np.repeat(some, turns, axis=0), np.tile(np.arange(turns), len(some))
        taken = np.arange(d) % turns == turn[:, None]
        off = np.where(taken, np.abs(rows - self._repaired(rows, taken)), np.nan)
        off[:, np.isnan(off).all(axis=0)] = 0.0
        self.margin = np.nanquantile(off, SPREAD, axis=0)

    # --- reading -----------------------------------------------------------------------------------------------------

    def scores(self, X: Array) -> Array:
        """How strange codes `(n, d)` are, `(n,)`."""
        return self._scored(X, False)[0]

    def remember(self, X: Array) -> Array:
        """Have the scorer take in calibrate rows; what they score as if they were new, `(n,)`."""
        scores = self._scored(X, False, self.scorer.remember)[0]
        self.scorer.float()  # as it will be stored
        self.settle()
        return scores

    def assess(self, X: Array) -> tuple[Array, Array]:
        """Scores `(n,)` and what each column contributes `(n, d)`."""
        return self._scored(X, True)

    def _scored(
        self, X: Array, explained: bool, score_of: Callable[[Pass], Tensor] | None = None
    ) -> tuple[Array, Array]:
        score_of = score_of or self.scorer

        def judged(rows: Array) -> tuple[Array, Array]:
            cells = self._cells(rows)
            p = self.passed(self._batch(cells))
            score, lost = self.scorer.judged(p) if explained else (score_of(p), None)
            scores = score.double().cpu().numpy()
            columns = None if lost is None else self.encoding.by_column(lost.double().cpu().numpy())
            if len(cells.charged):
                nats = np.einsum("ij->i", cells.surprise)
                price = self.scorer.price(nats)
                scores = _added(scores, cells.charged, price * nats)
                columns = None if columns is None else _added(columns, cells.charged, (price * cells.surprise.T).T)
            return scores, np.empty((len(scores), 0)) if columns is None else columns

        scores, shares = zip(*self._by_block(X, judged, alone=score_of is not self.scorer), strict=True)
        return np.concatenate(scores), np.concatenate(shares)

    def read(self, X: Array, reading: Callable[[Pass], Tensor]) -> Array:
        """What `reading` sees in the passes over codes `(n, d)`, put together: `n` rows."""

        def read(rows: Array) -> Array:
            seen: Array = reading(self.net(self._batch(self._cells(rows)))).double().cpu().numpy()
            return seen

        return np.concatenate(self._by_block(X, read))

    def _by_block(self, X: Array, work: Callable[[Array], Result], alone: bool = False) -> list[Result]:
        """Do work on each block of rows, as many at once as torch has threads; one after the other if it is `alone`.

        Blocks on a thread each are quicker than threads within a block, whose products of matrices are small.
        """
        size, workers = self.rows, torch.get_num_threads()
        blocks = [X[start : start + size] for start in range(0, len(X), size)]

        def quietly(rows: Array) -> Result:
            with torch.inference_mode():  # a thread has its own
                return work(rows)

        if alone or len(blocks) == 1 or workers == 1 or self._device.type != "cpu":
            with threads(self.net):
                return [quietly(rows) for rows in blocks]
        return by_turns(quietly, blocks, workers)

    def reconstruct(self, X: Array) -> Array:
        """Codes `(n, d)` as the net expects them."""
        return self._back(self.read(X, lambda p: p.px.mean), X)

    def _back(self, x: Array, X: Array) -> Array:
        """Cells as codes; columns that are given are as in the rows that cells stand for."""
        codes, given = self.encoding.inverse_transform(x), self.encoding.context
        codes[:, given] = X[:, given]
        return codes

    def decode(self, Z: Array) -> Array:
        """The codes of columns `(n, d)` that latent codes `(n, code)` stand for."""
        with threads(self.net), torch.inference_mode():
            x = self.net.decode(torch.tensor(Z, dtype=self.dtype, device=self._device), self._told(len(Z))).mean
        return self.encoding.inverse_transform(x.double().cpu().numpy())

    def sample(self, n: int, seed: int, given: Array | None = None) -> Array:
        """Codes `(n, d)` of `n` new rows; where some columns are a condition, as those of rows `given`, in turns."""
        given = None if given is None else given[np.arange(n) % len(given)]
        with threads(self.net), torch.inference_mode(), seeded(seed, self._device):
            told = self._told(n, given)
            z = self.net.latent.sample(n, self.net.prior_given(told))
            x = self.net.likelihood.sample(self.net.decode(z, told))
        x = x.double().cpu().numpy()
        return self.encoding.inverse_transform(x) if given is None else self._back(x, given)

    def expected(self, X: Array, columns: NDArray[np.intp]) -> Expected:
        """What column `columns[i]` of row `i` is expected to be, seen from the row's other columns."""
        repaired = self._repaired(X, np.arange(self.encoding.columns) == columns[:, None])
        code, margin = repaired[np.arange(len(X)), columns], self.margin[columns]
        for place, (usual, room) in self.encoding.usual.items():  # of what is given there is only what it was at fit
            code[columns == place], margin[columns == place] = usual, room
        return Expected(code, margin)

    def _repaired(self, X: Array, taken: NDArray[np.bool_]) -> Array:
        # cells of columns that are taken start from nothing; then they have the net's word for them, a few times
        codes = np.empty(X.shape)
        with threads(self.net), torch.inference_mode():
            for start in range(0, len(X), BLOCK):
                block = slice(start, start + BLOCK)
                batch = self._batch(self._cells(X[block]))
                cells = torch.from_numpy(taken[block][:, self.encoding.owner]).to(self._device)
                x = torch.where(cells, 0.0, batch.x)
                for _ in range(REPAIRS):
                    x = torch.where(cells, self.net(replace(batch, x=x)).px.mean, x)
                codes[block] = self._back(x.double().cpu().numpy(), X[block])
        return codes

    def _cells(self, X: Array) -> Cells:
        # sums of a table by columns are rounded in another order
        rows = np.ascontiguousarray(X)
        return self.encoding.transform(rows, np.float32 if self.dtype == torch.float32 else np.float64)

    def _batch(self, cells: Cells) -> Batch:
        x, mask, gaps = (
            None if values is None else torch.from_numpy(values).to(self._device, kind)
            for values, kind in ((cells.x, self.dtype), (cells.mask, torch.bool), (cells.gaps, self.dtype))
        )
        return Batch(x, mask, gaps)  # type: ignore[arg-type]

    def _told(self, n: int, given: Array | None = None) -> Tensor | None:
        """The condition of `n` rows that have no gaps but in columns that are given, which are as in rows `given`."""
        if given is not None:
            told = self._batch(self._cells(given)).condition
            assert told is not None
            told[:, : len(self.encoding.gappy)] *= torch.from_numpy(
                np.isin(self.encoding.gappy, self.encoding.context)
            ).to(told)
            return told
        if len(self.encoding.context):
            raise ConfigError(
                "Rows need their context to be made from codes, however: a model with a condition got none. Use "
                "reconstruct(X), or sample(n, condition=X)."
            )
        return torch.zeros(n, self.encoding.told, dtype=self.dtype, device=self._device) if self.encoding.told else None

    # --- keeping -----------------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """All tensors, in the float32 that they were trained in."""
        return {
            f"{place}.{name}": tensor.float() if tensor.is_floating_point() else tensor
            for place, module in self._modules().items()
            for name, tensor in module.state_dict().items()
        }

    def load_weights(self, state: Mapping[str, Tensor]) -> Fold:
        """Take the tensors that `weights` gave; raises RuntimeError where they do not fit."""
        for place, module in self._modules().items():
            prefix = f"{place}."
            module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        self.learned = FEW
        return self.settle()

    def _modules(self) -> dict[str, nn.Module]:
        members: dict[str, nn.Module] = {f"member_{i + 1}": net for i, net in enumerate(self.nets) if i}
        return {"net": self.net, **members, "scorer": self.scorer}


def _added(values: Array, rows: NDArray[np.intp], more: Array) -> Array:
    values = values.copy()
    values[rows] += more
    return values


def _but_every_fifth(rows: Batch) -> Batch:
    return rows.take(torch.arange(len(rows), device=rows.x.device) % 5 != 0)


def _float(batch: Batch) -> Batch:
    return replace(batch, x=batch.x.float(), condition=None if batch.condition is None else batch.condition.float())
