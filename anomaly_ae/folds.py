"""A fold: one net with its own scaler, trained on one split of the rows, and read block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_ae.data.preprocessing import Scaler
from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Batch, Pass, Sizes, check_compatible
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.training import Recipe, seeded, threads, train
from anomaly_ae.scoring.scorers import Scorer

Array = NDArray[np.float64]
BLOCK = 8192  # rows a forward pass; jobs align their blocks to it, so that resumed scores are the same to the bit


@dataclass
class Fold:
    """One net, the scaler of its fit rows, and the scorer that reads its passes.

    Weights train in float32. Passes run in float64: a float32 score moves in its seventh digit when the edges of
    blocks move, and the order of close rows with it.
    """

    scaler: Scaler
    net: Net
    scorer: Scorer

    @classmethod
    def build(cls, parts: Mapping[str, Any], scaler: Scaler, device: str, seed: int = 0) -> Fold:
        """Make an untrained fold from parts that nobody else holds."""
        check_compatible(parts)
        scorer = parts["scorer"]
        try:
            net = Net(**{axis: parts[axis] for axis in Net.AXES})
            with seeded(seed):
                net.build((len(scaler.mean),))
                scorer.build(Sizes((len(scaler.mean),)))
            return cls(scaler, net.to(device), scorer.to(device)).settle()
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

    def train(
        self,
        fit: Array,
        validate: Array,
        recipe: Recipe,
        seed: int,
        on_epoch: Callable[[dict[str, float]], bool] | None = None,
    ) -> list[dict[str, float]]:
        """Train on rows in units of the columns; returns one record an epoch."""
        self.net.float()
        device = next(self.net.parameters()).device
        rows, watched = (
            torch.tensor(self.scaler.transform(X), dtype=torch.float32, device=device) for X in (fit, validate)
        )
        with threads(self.net), seeded(seed, device):
            history = train(self.net, rows, watched if len(watched) else None, recipe, on_epoch)
        self.settle()
        return history

    def read(self, X: Array, *readings: Callable[[Pass], Tensor]) -> list[Array]:
        """What each of `readings` sees in the passes over rows `(n, d)`, put together: arrays of `n` rows."""
        device = next(self.net.parameters()).device
        blocks: list[list[Array]] = [[] for _ in readings]
        with threads(self.net), torch.inference_mode():
            for start in range(0, len(X), BLOCK):
                p = self.net(Batch(torch.from_numpy(self.scaler.transform(X[start : start + BLOCK])).to(device)))
                for block, reading in zip(blocks, readings, strict=True):
                    block.append(reading(p).cpu().numpy())
        return [np.concatenate(block) for block in blocks]

    def decode(self, Z: Array) -> Array:
        """The rows that codes `(n, code)` stand for, in units of the columns: `(n, d)`."""
        device = next(self.net.parameters()).device
        with threads(self.net), torch.inference_mode():
            x = self.net.decode(torch.tensor(Z, dtype=torch.float64, device=device)).mean
        return self.scaler.inverse_transform(x.cpu().numpy())

    def sample(self, n: int, seed: int) -> Array:
        """`n` new rows, in units of the columns: `(n, d)`."""
        with threads(self.net), torch.inference_mode(), seeded(seed, next(self.net.parameters()).device):
            z = self.net.latent.sample(n, self.net.prior)
            x = self.net.likelihood.sample(self.net.decode(z))
        return self.scaler.inverse_transform(x.cpu().numpy())

    def state(self) -> dict[str, Tensor]:
        """All tensors, in the float32 that they were trained in."""
        modules = {"net": self.net, "scorer": self.scorer}
        return {
            f"{place}.{name}": tensor.float() if tensor.is_floating_point() else tensor
            for place, module in modules.items()
            for name, tensor in module.state_dict().items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> Fold:
        """Take the tensors that `state` gave; raises RuntimeError where they do not fit."""
        for place, module in {"net": self.net, "scorer": self.scorer}.items():
            prefix = f"{place}."
            module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        return self.settle()
