"""Layers that backbones are made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

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


class Perceptron(nn.Module):
    """Fully connected layers, each followed by batch norm (if asked), an activation and dropout (if asked).

    **Shape**: `(n, widths[0] - condition)`, `(n, condition)` to `(n, widths[-1])`. With one width it is the identity.
    """

    def __init__(
        self, widths: Sequence[int], activation: str = "relu", dropout: float = 0.0, batch_norm: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers.append(nn.Linear(before, after))
            if batch_norm:
                layers.append(nn.BatchNorm1d(after))
            layers.append(ACTIVATIONS[activation]())
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers)
        self.features = widths[-1]

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.layers(x.flatten(1) if condition is None else torch.cat([x.flatten(1), condition], dim=1))
