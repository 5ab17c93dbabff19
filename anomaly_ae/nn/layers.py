"""Layers that all backbones and latents are made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from anomaly_ae.compiled import pays
from anomaly_ae.errors import ConfigError
from anomaly_ae.ranges import NOT_ALL, check_range

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
LANES = 16  # numbers of float32 that a processor multiplies at once


def check_hidden(part: Any) -> None:
    """Refuse a part's `activation` or `dropout` that its hidden layers cannot have."""
    who = type(part).__name__
    if part.activation not in ACTIVATIONS:
        raise ConfigError(
            f"{who} knows the activations {', '.join(ACTIVATIONS)}, however: {part.activation!r}. Choose one."
        )
    check_range(part, NOT_ALL, "dropout")


def beside(x: Tensor, condition: Tensor | None) -> Tensor:
    """`x` with the condition, if there is any, as further features."""
    return x if condition is None else torch.cat([x, condition], dim=1)


def flat(x: Tensor, condition: Tensor | None) -> Tensor:
    """Rows or windows as long rows, with the condition beside: `(n, cells)`."""
    rows = x if x.dim() == 2 else x.flatten(1)
    return rows if condition is None else beside(rows, condition.flatten(1))


def at_each_step(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`weight` (after, before) times the features of each step, plus `bias`: (n, before, time) to (n, after, time)."""
    weight = weight.expand(len(x), -1, -1)  # a batch of products, without the copies that a transposed `x` would cost
    return torch.bmm(weight, x) if bias is None else torch.baddbmm(bias[:, None], weight, x)


class Linear(nn.Linear):
    """torch's linear map, quicker where many rows are read in float32: a last vector more than half full is filled."""

    def forward(self, x: Tensor) -> Tensor:
        more = -self.out_features % LANES
        quick = 0 < more < LANES / 2 and x.dtype == torch.float32 and x.device.type == "cpu"
        if not (quick and x.is_inference() and pays(x.numel())):
            return super().forward(x)
        bias = None if self.bias is None else pad(self.bias, (0, more))
        return linear(x, pad(self.weight, (0, 0, 0, more)), bias)[..., : self.out_features]


class Pointwise(Linear):
    """One linear map of the features of every row, or of every time step: a 1x1 convolution.

    **Shape**: `(n, before)` to `(n, after)`; `(n, before, time)` to `(n, after, time)`.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.dim() == 2 else at_each_step(x, self.weight, self.bias)


class BatchNorm(nn.BatchNorm1d):
    """torch's batch norm of features, which says what to do about a batch that has no variance."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            raise ConfigError(
                "batch_norm needs 2 rows or more a batch, however: 1. Give more rows, raise batch_size, or set "
                "batch_norm=False."
            )
        return super().forward(x)


class Perceptron(nn.Module):
    """Fully connected layers, each followed by batch norm (if asked), an activation and dropout (if asked).

    **Shape**: `(n, ...)` and the condition `(n, ...)`, together of `widths[0]` cells, to `(n, widths[-1])`. With one
    width it is the identity.
    """

    steps: tuple[int, ...] = ()

    def __init__(
        self, widths: Sequence[int], activation: str = "relu", dropout: float = 0.0, batch_norm: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers.append(Linear(before, after))
            if batch_norm:
                layers.append(BatchNorm(after))
            # the layer before needs not what it gave: in place there is half as much memory to wait for
            layers.append(nn.ReLU(inplace=True) if activation == "relu" else ACTIVATIONS[activation]())
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers)
        self.features = widths[-1]

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.layers(flat(x, condition))


def reader(before: int, hidden: int, after: int) -> nn.Sequential:
    """What looks at codes or rows beside the net: two hidden layers and a linear map, `(n, before)` to `(n, after)`."""
    return nn.Sequential(Perceptron([before, hidden, hidden], "leaky_relu"), nn.Linear(hidden, after))
