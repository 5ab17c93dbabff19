"""A fold: one net with its own encoding of the columns, trained on one split of the rows, and read block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_ae.data.preprocessing import Cells, Encoding
from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Batch, Pass, Sizes, check_compatible
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.training import Recipe, seeded, threads, train
from anomaly_ae.scoring.scorers import Scorer

Array = NDArray[np.float64]
BLOCK = 8192  # rows a forward pass; jobs align their blocks to it, so that resumed scores are the same to the bit
REPAIRS = 8  # passes after which a column that was taken away has settled
SPREAD = 0.95  # share of validate rows whose value lies in the expected interval


class Expected(NamedTuple):
    """What a column of some rows is expected to be: its code `(n,)` and, of a number or date, half an interval."""

    code: Array
    margin: Array


@dataclass
class Fold:
    """One net, the encoding of its fit rows, and the scorer that reads its passes.

    Weights train in float32. Passes run in float64: a float32 score moves in its seventh digit when the edges of
    blocks move, and the order of close rows with it. `margin` `(d,)` says how far from what is expected a column of
    validate rows lies.
    """

    encoding: Encoding
    net: Net
    scorer: Scorer
    margin: Array

    @classmethod
    def build(cls, parts: Mapping[str, Any], encoding: Encoding, device: str, seed: int = 0) -> Fold:
        """Make an untrained fold from parts that nobody else holds."""
        parts = {axis: parts[axis] for axis in (*Net.AXES, "scorer")}
        check_compatible(parts)
        scorer = parts["scorer"]
        shape, groups = (encoding.width,), encoding.groups
        try:
            net = Net(**{axis: parts[axis] for axis in Net.AXES})
            with seeded(seed):
                net.build(shape, groups=groups)
                scorer.build(Sizes(shape, groups=groups))
            return cls(encoding, net.to(device), scorer.to(device), np.zeros(encoding.columns)).settle()
        except (AttributeError, TypeError, RuntimeError) as error:
            composition = ", ".join(f"{axis} {part!r}" for axis, part in parts.items() if part is not None)
            raise ConfigError(
                f"A detector needs parts on their own axes, values of their own types and a device, however: {error} "
                f"(device {device}, {composition}). Compare with the docstrings of these parts."
            ) from error

    def settle(self) -> Fold:
        """Ready to be read: float64, nothing random."""
        self.net.double().eval()
        self.scorer.double().eval()
        return self

    # --- learning ----------------------------------------------------------------------------------------------------

    def train(
        self,
        fit: Array,
        validate: Array,
        recipe: Recipe,
        seed: int,
        on_epoch: Callable[[dict[str, float]], bool] | None = None,
    ) -> list[dict[str, float]]:
        """Train on codes `(n, d)`; then the scorer learns what residuals of validate rows are like, if it asks for it.

        Returns one record an epoch.
        """
        self.net.float()
        rows, watched = (self._batch(self.encoding.transform(X)) for X in (fit, validate))
        with threads(self.net), seeded(seed, self._device):
            history = train(self.net, _float(rows), _float(watched) if len(watched) else None, recipe, on_epoch)
        self.settle()
        if not len(watched):
            validate, watched = fit, rows
        with threads(self.net), torch.inference_mode():
            self.scorer.learn(self.net(watched.take(slice(BLOCK))))
        self.scorer.float()  # as it will be stored
        self.settle()
        self._learn_margin(validate)
        return history

    def _learn_margin(self, X: Array) -> None:
        """How far a column lies from what the others let expect, over some rows."""
        d = self.encoding.columns
        some = X[: min(256, max(8, BLOCK // d))]
        rows, columns = np.repeat(some, d, axis=0), np.tile(np.arange(d), len(some))
        off = np.abs(rows[np.arange(len(rows)), columns] - self._repaired(rows, columns)).reshape(-1, d)
        gone = np.isnan(off).all(axis=0)
        off[:, gone] = 0.0
        self.margin = np.nanquantile(off, SPREAD, axis=0)

    # --- reading -----------------------------------------------------------------------------------------------------

    def scores(self, X: Array) -> Array:
        """How strange codes `(n, d)` are, `(n,)`."""
        return self._scored(X)[0]

    def assess(self, X: Array) -> tuple[Array, Array]:
        """Scores `(n,)` and what each column contributes `(n, d)`."""
        score, cells = self._scored(X, self.scorer.contributions)
        return score, cells

    def _scored(self, X: Array, contributions: Callable[[Pass], Tensor] | None = None) -> tuple[Array, Array]:
        unit = self.scorer.unit
        scores, shares = [], []
        with threads(self.net), torch.inference_mode():
            for start in range(0, len(X), BLOCK):
                cells = self.encoding.transform(X[start : start + BLOCK])
                p = self.net(self._batch(cells))
                scores.append(self.scorer(p).cpu().numpy() + unit * cells.surprise.sum(axis=1))
                if contributions is not None:
                    lost = self.encoding.by_column(contributions(p).cpu().numpy())
                    shares.append(lost + unit * cells.surprise)
        return np.concatenate(scores), np.concatenate(shares) if shares else np.empty((len(X), 0))

    def read(self, X: Array, reading: Callable[[Pass], Tensor]) -> Array:
        """What `reading` sees in the passes over codes `(n, d)`, put together: `n` rows."""
        blocks = []
        with threads(self.net), torch.inference_mode():
            for start in range(0, len(X), BLOCK):
                cells = self.encoding.transform(X[start : start + BLOCK])
                blocks.append(reading(self.net(self._batch(cells))).cpu().numpy())
        return np.concatenate(blocks)

    def reconstruct(self, X: Array) -> Array:
        """Codes `(n, d)` as the net expects them."""
        return self.encoding.inverse_transform(self.read(X, lambda p: p.px.mean))

    def decode(self, Z: Array) -> Array:
        """The codes of columns `(n, d)` that latent codes `(n, code)` stand for."""
        with threads(self.net), torch.inference_mode():
            x = self.net.decode(torch.tensor(Z, dtype=torch.float64, device=self._device)).mean
        return self.encoding.inverse_transform(x.cpu().numpy())

    def sample(self, n: int, seed: int) -> Array:
        """Codes `(n, d)` of `n` new rows."""
        with threads(self.net), torch.inference_mode(), seeded(seed, self._device):
            z = self.net.latent.sample(n, self.net.prior)
            x = self.net.likelihood.sample(self.net.decode(z))
        return self.encoding.inverse_transform(x.cpu().numpy())

    def expected(self, X: Array, columns: NDArray[np.intp]) -> Expected:
        """What column `columns[i]` of row `i` is expected to be, seen from the row's other columns."""
        return Expected(self._repaired(X, columns), self.margin[columns])

    def _repaired(self, X: Array, columns: NDArray[np.intp]) -> Array:
        # the column's cells start from nothing and take the net's word for them until that no longer changes
        codes = np.empty(len(X))
        with threads(self.net), torch.inference_mode():
            for start in range(0, len(X), BLOCK):
                block = slice(start, start + BLOCK)
                which = columns[block]
                batch = self._batch(self.encoding.transform(X[block]))
                taken = torch.from_numpy(self.encoding.owner == which[:, None]).to(self._device)
                x = torch.where(taken, 0.0, batch.x)
                mask = None if batch.mask is None else batch.mask | taken
                for _ in range(REPAIRS):
                    x = torch.where(taken, self.net(Batch(x, mask)).px.mean, x)
                decoded = self.encoding.inverse_transform(x.cpu().numpy())
                codes[block] = decoded[np.arange(len(which)), which]
        return codes

    def _batch(self, cells: Cells) -> Batch:
        mask = None if cells.mask is None else torch.from_numpy(cells.mask).to(self._device)
        return Batch(torch.from_numpy(cells.x).to(self._device), mask)

    @property
    def _device(self) -> torch.device:
        return next(self.net.parameters()).device

    # --- keeping -----------------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """All tensors, in the float32 that they were trained in."""
        modules = {"net": self.net, "scorer": self.scorer}
        return {
            f"{place}.{name}": tensor.float() if tensor.is_floating_point() else tensor
            for place, module in modules.items()
            for name, tensor in module.state_dict().items()
        }

    def load_weights(self, state: Mapping[str, Tensor]) -> Fold:
        """Take the tensors that `weights` gave; raises RuntimeError where they do not fit."""
        for place, module in {"net": self.net, "scorer": self.scorer}.items():
            prefix = f"{place}."
            module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        return self.settle()


def _float(batch: Batch) -> Batch:
    return Batch(batch.x.float(), batch.mask)
