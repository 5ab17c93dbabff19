"""A fold over a series: channels, the net if one is needed, and the views that make rows' scores of windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_ae.nn.core import Batch, Pass, Sizes, check_compatible, put_together
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.stack import Stack
from anomaly_ae.nn.training import Recipe, seeded, train
from anomaly_ae.series.channels import Channels, Encoded
from anomaly_ae.series.eyes import Eye, few_threads
from anomaly_ae.series.tails import Tails
from anomaly_ae.series.views import View
from anomaly_ae.series.windows import Kinds, Windows, ending, over_rows, starts
from anomaly_ae.storage import below

Array = NDArray[np.float64]
Places = NDArray[np.intp]
FIT_CELLS = 2**23  # of the windows that are learned from: 32 MiB for a net, 64 for a scorer
FEWEST_WINDOWS = 256
LEARN_WINDOWS = 16384
WATCHED_WINDOWS = 1024
BATCH_ROWS = 4096  # of the windows of a training step, where each row has a code of its own
LEAST = 1e-3  # of what is blamed on the average channel: the least that is usual for one
BEGUN, LEVEL, TINY = 32, 0.95, 1e-300  # windows that tell what mirror images add, and at which quantile
KNOTS = 17  # numbers of known rows at which they tell it, beside powers of two
WINDOWS_A_ROW = 16  # that the mean is taken over, unless a stride is asked for


class Reading(NamedTuple):
    """Scores of rows (or windows) `(n,)` and, if asked, what each column contributes `(n, d)`."""

    scores: Array
    columns: Array | None = None

    def each(self, how: Callable[..., Array], *others: Reading) -> Reading:
        """What `how` makes of the scores, and of the contributions where there are any, with those of `others`."""
        columns = None if self.columns is None else how(self.columns, *(other.columns for other in others))
        return Reading(how(self.scores, *(other.scores for other in others)), columns)

    def at(self, rows: Places | slice) -> Reading:
        """That of some of the rows."""
        return self.each(lambda values: values[rows])


class Raw(NamedTuple):
    """What each view says of rows in its own units, and what rows cost by themselves, `(n, d)` in nats."""

    views: list[Reading]
    surprise: Array

    def at(self, rows: Places) -> Raw:
        """That of some of the rows."""
        return Raw([told.at(rows) for told in self.views], self.surprise[rows])


class Rarity(NamedTuple):
    """What one view's scores mean: what it blames on each channel on average, `(d,)`, and tails where needed.

    Those of what it blames on each channel where channels are chosen by them, those of rows' scores among other views.
    """

    usual: Array
    channels: Tails | None
    rows: Tails | None


class SeriesFold:
    """Channels, net and views, learned from one division of the rows.

    Weights train in float32; windows are read in `dtype`.
    """

    def __init__(
        self,
        parts: Mapping[str, Any],
        views: Sequence[View],
        channels: Channels,
        window: int,
        longest: int,
        device: str,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.channels, self.dtype, self.device = channels, dtype, torch.device(device)
        self.net: Net | None = None
        self.eyes: list[Eye] = []
        with put_together(parts, device, list(views)), seeded(seed):
            if any(view.scorer.reads_net for view in views):
                axes = {axis: parts.get(axis) for axis in Net.AXES}
                for view in views:
                    check_compatible(axes | {"scorer": view.scorer})
                seen = channels.measured
                net = Net(**axes).build((len(seen), window), groups=channels.groups(seen))
                self.net = net.to(self.device)
            for view in views:
                scorer, reads = view.scorer, view.scorer.reads_net
                length = view.length(window, longest)
                seen = channels.seen(view.of)
                scorer.build(Sizes((len(seen), length), groups=channels.groups(seen)))
                for piece in scorer.pieces() if reads else ():
                    piece.join(self.net)
                top = None if view.channels == "all" else int(view.channels)
                self.eyes.append(Eye(scorer.to(self.device), length, self.net if reads else None, top, seen))
            if self.net is not None:
                self.net.rehearse()
        channels.length = self.length
        self.settle()

    @property
    def length(self) -> int:
        """Rows that a score depends on."""
        return max(eye.length for eye in self.eyes)

    @property
    def unseen(self) -> Places:
        """The columns that no view looks at."""
        seen = self.channels.used[np.concatenate([eye.seen for eye in self.eyes])]
        return np.setdiff1d(np.arange(self.channels.columns), self.channels.encoding.owner[seen])

    @property
    def unit(self) -> float:
        """What a nat is worth in units of the score."""
        return 1.0 if len(self.eyes) > 1 or self.eyes[0].top else float(self.eyes[0].scorer.unit)

    def settle(self) -> None:
        """Ready to be read: of the type for reading, nothing random."""
        for module in (self.net, *(eye.scorer for eye in self.eyes)):
            if module is not None:
                module.to(dtype=self.dtype).eval()

    # --- learning ----------------------------------------------------------------------------------------------------

    def learn(
        self,
        rows: Array,
        kinds: Kinds,
        recipe: Recipe,
        seed: int,
        on_epoch: Callable[[dict[str, float]], bool] | None = None,
        share: float = 1.0,
    ) -> list[dict[str, float]]:
        """Train on the windows of fit rows, then let scorers learn; validate rows stop the one and scale the others.

        Of windows that are too many, scorers learn from that `share` of what they learn from in the end.
        """
        with few_threads(max(len(eye.seen) * eye.length for eye in self.eyes)):
            return self._learn(rows, kinds, recipe, seed, on_epoch, share)

    def _learn(
        self,
        rows: Array,
        kinds: Kinds,
        recipe: Recipe,
        seed: int,
        on_epoch: Callable[[dict[str, float]], bool] | None,
        share: float,
    ) -> list[dict[str, float]]:
        encoded = self.channels.encode(rows)[0]
        history: list[dict[str, float]] = []
        if self.net is not None:
            eye = next(eye for eye in self.eyes if eye.net is not None)
            length = eye.length
            fit, watched = (self._windows(encoded, eye, some) for some in (kinds.fit, kinds.validate))
            if self.net.encoder.steps == (length,):
                recipe = replace(recipe, batch_size=min(recipe.batch_size, max(1, BATCH_ROWS // length)))
            with seeded(seed, self.device):
                self.net.float()
                watched_ = watched.batch(self.device, torch.float32) if len(watched) else None
                history = train(Stack([self.net]), fit.batch(self.device, torch.float32), watched_, recipe, on_epoch)
        self.settle()
        passes: dict[tuple[int, bool, bool, int], list[Pass]] = {}  # views of the same windows share them
        for number, eye in enumerate(self.eyes):
            key = eye.length, eye.net is not None, eye.warm_up is None, len(eye.seen)
            with torch.inference_mode(), seeded(seed + number, self.device):
                if key not in passes:
                    fit, watched = (self._windows(encoded, eye, some) for some in kinds[:2])
                    watched = watched if len(watched) else fit
                    most = LEARN_WINDOWS if eye.warm_up is None else WATCHED_WINDOWS
                    some = fit.thinned(most), watched.thinned(WATCHED_WINDOWS)
                    passes[key] = [replace(eye.see(self._batch(windows)), share=share) for windows in some]
                eye.scorer.learn(*passes[key])
            eye.scorer.float()  # as it will be stored
        self.settle()
        return history

    def learn_begun(self, rows: Array, runs: Places) -> None:
        """How far to trust windows of which some rows are known and the others are their mirror image.

        Where a series begins they count for as many rows as they have, and for less where runs `(k, 2)` of rows that
        were not learned from say more by them than by whole windows: at the quantile `LEVEL` of both. Between two
        numbers of known rows the lower trust holds.
        """
        encoded = self.channels.encode(rows)[0]
        for eye in self.eyes:
            length = eye.length
            first = starts(runs, length, BEGUN)
            if length == 1 or not len(first):
                continue
            few, many = 2 ** np.arange(int(np.log2(length - 1)) + 1) - 1, np.linspace(0, length - 2, KNOTS)
            last = np.unique(np.concatenate([few, many]).astype(np.intp))  # row, of those that are known
            begun = (first[:, None, None] + ending(0, length - 1, length)[last]).reshape(-1, length)
            mirrored, whole = (self._counting(eye, self._over(encoded, eye, at)) for at in (begun, first))
            high = np.quantile(mirrored.reshape(len(first), len(last), -1), LEVEL, axis=0) * eye.begun[last, None]
            usual = np.quantile(whole, LEVEL, axis=0)
            trust = np.where(usual > 0, np.minimum(1, usual / np.maximum(high, TINY)), 1).min(axis=1)
            before, after = (np.searchsorted(last, np.arange(length - 1), side) for side in ("right", "left"))
            eye.begun[:-1] *= np.minimum(trust[before - 1], trust[after])

    def _counting(self, eye: Eye, windows: Windows) -> Array:
        """What windows say that counts, `(n, 1)`; where channels are chosen, `(n, d)` of each by itself."""
        told = self._judge(eye, windows, eye.top is not None)
        return told.scores[:, None] if eye.top is None or told.columns is None else told.columns

    def begin_as(self, other: SeriesFold) -> None:
        """Trust windows that have just begun as another fold does, and what is expected as much."""
        self.channels.margin = other.channels.margin
        for mine, told in zip(self.eyes, other.eyes, strict=True):
            mine.begun = told.begun

    def _windows(self, encoded: Encoded, eye: Eye, runs: Places) -> Windows:
        length = eye.length
        most = max(FEWEST_WINDOWS, FIT_CELLS // max(1, len(eye.seen) * length))
        where = starts(runs, length, most)
        if not len(where) and len(runs):  # every run is shorter: their mirror images fill windows up
            where = np.concatenate([first + ending(last - first - 1, 1, length) for first, last in runs])
        return self._over(encoded, eye, where)

    def rarities(self, told: Sequence[Raw], step: int = 1) -> list[Rarity]:
        """What rare means to each view, by what folds said of rows that they never saw, every `step`-th of them."""
        found = []
        for number, eye in enumerate(self.eyes):
            mine = [one.views[number] for one in told]
            blamed = np.concatenate([one.columns for one in mine if one.columns is not None])
            usual = np.ones(blamed.shape[1]) if eye.scorer.comparable else blamed.mean(axis=0)
            channels = rows = None
            if eye.top is not None:
                channels = Tails.learn(blamed, max(1.0, eye.length / step))
            if len(self.eyes) > 1:
                rows = Tails.learn(np.concatenate([_scores(eye, one, channels) for one in mine])[:, None])
            found.append(Rarity(np.maximum(usual, LEAST * usual.mean() or 1.0), channels, rows))
        return found

    # --- reading -----------------------------------------------------------------------------------------------------

    def raw(self, rows: Array, reduce: str, stride: int | str = 1, explained: bool = True) -> Raw:
        """What each view says of rows `(T, d)` that follow each other; `stride` is that of the windows of a mean."""
        encoded = self.channels.encode(rows)[0]
        return Raw([self._read(eye, encoded, reduce, stride, explained) for eye in self.eyes], encoded.surprise)

    def raw_at(self, encoded: Encoded, at: Places, begin: bool = False, explained: bool = True) -> Raw:
        """What each view says of some of the rows, by the windows that end, or `begin`, there.

        There are as many rows as a window has, or more. Where there are too few before, or after, for a longer view, it
        says nothing, and the shortest says what its first window says, or its last.
        """
        n, views, shortest = len(encoded.x), [], min(eye.length for eye in self.eyes)
        known = n - at if begin else at + 1
        for eye in self.eyes:
            first = np.clip(at if begin else at - eye.length + 1, 0, n - eye.length)
            start, told = int(first.min()), explained or eye.top is not None
            if eye.warm_up is None:
                mine = self._judge(eye, self._over(encoded, eye, first), told)
            else:  # all of them are as quick
                every = self._over(encoded, eye, slice(start, int(first.max()) + 1))
                mine = self._judge(eye, every, told).at(first - start)
            says = (known >= eye.length) | (eye.length == shortest)
            views.append(mine.each(lambda told, says=says: (told.T * says).T))
        return Raw(views, encoded.surprise[at])

    def raw_next(self, encoded: Encoded, new: int, explained: bool = True) -> Raw:
        """What each view says of the last `new` of some rows, by the windows that end there: as `raw` by "last"."""
        views = []
        for eye in self.eyes:
            kept = len(encoded.x) - new
            first = kept - eye.length + 1
            where = slice(first, first + new) if first >= 0 else ending(kept, new, eye.length)
            told = self._judge(eye, self._over(encoded, eye, where), explained or eye.top is not None)
            views.append(told if first >= 0 else _begun(told, kept, eye))
        return Raw(views, encoded.surprise[-new:])

    def fuse(self, raw: Raw, rarities: Sequence[Rarity]) -> Reading:
        """All views together, and what rows cost by themselves.

        The Euclidean norm of the views' nats: what two views find strange is stranger, and what one alone finds very
        strange is not drowned by the noise of the others.
        """
        nats = []
        for eye, told, rarity in zip(self.eyes, raw.views, rarities, strict=True):
            mine = _scores(eye, told, rarity.channels)
            nats.append(mine if rarity.rows is None else rarity.rows.nats(mine[:, None])[:, 0])
        scores = nats[0] if len(nats) == 1 else np.sqrt(np.square(nats).sum(axis=0))
        scores = scores + self.unit * raw.surprise.sum(axis=1)
        columns = self.unit * raw.surprise
        for mine, told, rarity in zip(nats, raw.views, rarities, strict=True):
            if told.columns is None:
                return Reading(scores)
            columns = columns + _divided(mine, told.columns / rarity.usual)
        return Reading(scores, _divided(scores, columns))

    def expected(self, rows: Array) -> Array:
        """What each column of rows that follow each other is expected to be, `(T, d)`; windows lie side by side.

        Seen from the window's other channels, by the first view that can tell; else what the net makes of it.
        """
        return self.expected_of(self.channels.encode(rows)[0])

    def expected_of(self, encoded: Encoded) -> Array:
        """The same of rows as cells."""
        able, n = [eye for eye in self.eyes if hasattr(eye.scorer, "expected")], len(encoded.x)
        eye = next(iter(able or [eye for eye in self.eyes if eye.net is not None]), None)
        if eye is None:
            return np.full((n, self.channels.columns), np.nan)
        length, place = eye.length, 0
        first = np.append(np.arange(0, max(n - length, 0), length), max(n - length, 0))
        windows = self._over(encoded, eye, first if n >= length else ending(n - 1, 1, length))
        cells = np.empty((max(n, length), len(eye.seen)))
        with few_threads(len(eye.seen) * eye.length), torch.inference_mode():
            for some in eye.blocks(windows):
                p = eye.see(self._batch(some))
                told = eye.scorer.expected(p) if hasattr(eye.scorer, "expected") else p.px.mean
                for window in told.double().cpu().numpy():
                    cells[first[place] : first[place] + length] = window.T
                    place += 1
        return self.channels.inverse_transform(cells[-n:], eye.seen)

    def _read(self, eye: Eye, encoded: Encoded, reduce: str, stride: int | str, explained: bool) -> Reading:
        """What one view says of rows, in its scorer's own units."""
        n, length = len(encoded.x), eye.length
        explained = explained or eye.top is not None
        if reduce == "last":
            head = self._judge(eye, self._over(encoded, eye, ending(0, min(n, length - 1), length)), explained)
            head = _begun(head, 0, eye)
            if n < length:
                return head
            full = self._judge(eye, self._over(encoded, eye, slice(0, n - length + 1)), explained)
            return head.each(lambda *parts: np.concatenate(parts), full)
        counted = min(n, eye.counted)
        usual = 1 if eye.warm_up is not None else max(1, length // WINDOWS_A_ROW)
        step = usual if stride == "auto" else min(int(stride), counted)  # no row without a window
        last = n - counted
        first = np.arange(0, last + 1, step)
        where: slice | Places = slice(0, last + 1, step)
        if first[-1] != last:
            first = where = np.append(first, last)
        begun = encoded.begun(max(eye.warm_up or 0, length - n))
        told = _begun(self._judge(eye, self._over(begun, eye, where), explained), n - 1, eye)
        return told.each(lambda a: over_rows(a, first, counted, n))

    def _judge(self, eye: Eye, windows: Windows, explained: bool) -> Reading:
        scores, columns = [np.empty(0)], [np.empty((0, self.channels.columns))]
        with torch.inference_mode():
            for score, cells in eye.looks(windows, self.device, self.dtype, explained):
                scores.append(score.double().cpu().numpy())
                if cells is not None:
                    columns.append(self.channels.by_column(cells.double().cpu().numpy(), eye.seen))
        return Reading(np.concatenate(scores), np.concatenate(columns) if explained else None)

    def _over(self, encoded: Encoded, eye: Eye, where: slice | Places) -> Windows:
        seen = slice(None) if len(eye.seen) == encoded.x.shape[1] else eye.seen
        return Windows(encoded.x[:, seen], None if encoded.mask is None else encoded.mask[:, seen], eye.length, where)

    def _batch(self, windows: Windows) -> Batch:
        return windows.batch(self.device, self.dtype)

    # --- keeping -----------------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """All tensors, in the float32 that they were trained in, and how far windows count that have just begun."""
        begun = {f"begun{number}": torch.from_numpy(eye.begun) for number, eye in enumerate(self.eyes)}
        modules = {"net": self.net} | {f"view{number}": eye.scorer for number, eye in enumerate(self.eyes)}
        return begun | {
            f"{place}.{name}": tensor.float() if tensor.is_floating_point() else tensor
            for place, module in modules.items()
            if module is not None
            for name, tensor in module.state_dict().items()
        }

    def restore(self, weights: Mapping[str, Tensor]) -> SeriesFold:
        """Take what `weights` gave; raises KeyError or RuntimeError where it does not fit."""
        for number, eye in enumerate(self.eyes):
            eye.begun = weights[f"begun{number}"].double().numpy()
        modules = {"net": self.net} | {f"view{number}": eye.scorer for number, eye in enumerate(self.eyes)}
        for place, module in modules.items():
            if module is not None:
                module.load_state_dict(below(f"{place}.", weights))
        self.settle()
        return self


def _begun(told: Reading, before: int, eye: Eye) -> Reading:
    """What windows say that are filled up with their mirror image: it counts for as much as `learn_begun` found."""
    known = np.minimum(before + np.arange(len(told.scores)), len(eye.begun) - 1)
    share = eye.begun[known]
    return Reading(told.scores * share, None if told.columns is None else told.columns * share[:, None])


def _scores(eye: Eye, told: Reading, tails: Tails | None) -> Array:
    """The scorer's own scores, or the sum over those channels that are strangest by their own tails."""
    if eye.top is None or tails is None or told.columns is None:
        return told.scores
    nats = tails.nats(told.columns)
    k = min(eye.top, nats.shape[1])
    return -np.partition(-nats, k - 1, axis=1)[:, :k].sum(axis=1)


def _divided(scores: Array, columns: Array) -> Array:
    """Scores `(n,)` divided among columns `(n, d)` as these are to each other; evenly where all are 0."""
    columns = np.maximum(columns, 0)
    whole = columns.sum(axis=1, keepdims=True)
    share = np.divide(columns, whole, out=np.full_like(columns, 1 / columns.shape[1]), where=whole > 0)
    return share * scores[:, None]
