"""Graph convolutions over sensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.convolutions import Conv
from anomaly_ae.nn.core import Sizes
from anomaly_ae.nn.layers import ACTIVATIONS, Pointwise
from anomaly_ae.nn.sequences import SequenceBackbone
from anomaly_ae.ranges import COUNT, check_range

__all__ = ["GraphConv"]


class GraphConv(SequenceBackbone):
    r"""Sensors as the nodes of a graph: each learns from its own past and from that of the sensors it depends on.

    .. math:: u_i \leftarrow u_i + W \, \mathrm{dropout}\Bigl(a\bigl(S v_i + N \textstyle\sum_j A_{ij} v_j\bigr)\Bigr),
              \quad v_i = K * u_i, \quad A_{ij} = \frac{E_{ij}}{\sum_k E_{ik}}
              \text{ or } \frac{[i \ne j] \, e^{L_{ij}}}{\sum_{k \ne i} e^{L_{ik}}}

    with the edges `E` given or the logits `L` learned. All sensors share `K`, `S`, `N` and `W`; what a sensor is like
    is learned as an offset of its features. `net.encoder.blocks.graph()` is the matrix `A`.

    **Shape**: `(n, sensors, time)` to features `(n, sensors * channels, time)`, `(n, features, time / codes)` or
    `(n, features)`; codes back to `(n, n_params, sensors, time)`. A condition is `(n, condition, time)`.

    Parameters
    ----------
    edges : array-like of float >= 0 `(sensors, sensors)` or None, default=None
        How much row `i`'s sensor depends on column `j`'s; `None` learns it.
    channels : int >= 1, default=8
        Features of each sensor.
    kernel : int >= 1 (taps), default=3
        Width of the convolution over time.
    layers : int >= 1, default=2
        Graph convolutions on top of each other: so many edges away a sensor is seen.
    causal : bool, default=True
        Whether a step knows the past only. Otherwise convolutions are centred.
    codes : "step", "window" or int >= 1, default="step"
        A code for each time step, for the whole window (which it then knows, causal or not), or for so many steps each.
    activation : {"elu", "gelu", "leaky_relu", "relu", "selu", "sigmoid", "silu", "tanh"}, default="relu"
        Nonlinearity in each layer.
    dropout : float in [0, 1), default=0
        Share of hidden units silenced in training; off when scoring.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range, the edges are not those of the sensors, or the rows are no windows.

    References
    ----------
    Kipf and Welling (2017), Semi-supervised classification with graph convolutional networks, arXiv:1609.02907;
    Wu et al. (2019), Graph WaveNet for deep spatial-temporal graph modeling, arXiv:1906.00121 (learned edges).

    Examples
    --------
    >>> from anomaly_ae import GraphConv
    >>> GraphConv(edges=[[0, 1, 0], [1, 0, 1], [0, 1, 0]], channels=4)
    GraphConv(channels=4, edges=[[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    """

    def __init__(
        self,
        edges: ArrayLike | None = None,
        channels: int = 8,
        kernel: int = 3,
        layers: int = 2,
        causal: bool = True,
        codes: str | int = "step",
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        self.edges = edges
        self.channels = channels
        self.kernel = kernel
        self.layers = layers
        self.causal = causal
        self.codes = codes
        self.activation = activation
        self.dropout = dropout

    def blocks(self, sizes: Sizes) -> _Stack:
        check_range(self, COUNT, "kernel", "layers")
        return _Stack(self, Graph(sizes.shape[0], self._checked_edges(sizes.shape[0])), sizes.shape[0])

    def reader(self, width: int, sizes: Sizes) -> nn.Module:
        return _BySensor(sizes.shape[0], sizes.condition, self.channels)

    def writer(self, width: int, n_params: int, sizes: Sizes) -> nn.Module:
        return _ToSensors(sizes.shape[0], self.channels, n_params)

    def _checked_edges(self, sensors: int) -> Tensor | None:
        if self.edges is None:
            return None
        edges = np.asarray(self.edges, dtype=np.float64)
        if edges.shape != (sensors, sensors) or not (edges >= 0).all():
            raise ConfigError(
                f"GraphConv needs edges of 0 or more from {sensors} sensors to each, however: shape {edges.shape}, "
                f"smallest {edges.min(initial=0)}. Give a matrix with a row and a column for each channel."
            )
        return torch.tensor(edges, dtype=torch.get_default_dtype())


class Graph(nn.Module):
    """Who depends on whom, `(sensors, sensors)`: rows add up to 1, or to 0 where a sensor depends on none."""

    def __init__(self, sensors: int, edges: Tensor | None = None) -> None:
        super().__init__()
        self.logits: Tensor | None = None
        if edges is None and sensors > 1:
            self.logits = nn.Parameter(torch.zeros(sensors, sensors))
        else:
            edges = torch.zeros(sensors, sensors) if edges is None else edges
            self.register_buffer("edges", edges / edges.sum(1, keepdim=True).clamp(min=1e-12))

    def forward(self) -> Any:
        if self.logits is None:
            return self.edges
        return self.logits.masked_fill(torch.eye(len(self.logits), device=self.logits.device) > 0, -torch.inf).softmax(
            1
        )


class GraphConvolution(nn.Module):
    r"""What each sensor makes of itself and of the sensors it depends on.

    .. math:: y_i = S v_i + N \sum_j A_{ij} v_j + b

    **Shape**: `(n, sensors, before, time)` and the edges `(sensors, sensors)` to `(n, sensors, after, time)`.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.linear = Pointwise(2 * before, after)

    def forward(self, v: Tensor, edges: Tensor) -> Tensor:
        others = (edges @ v.flatten(2)).view_as(v)
        return self.linear(torch.cat([v, others], dim=2).flatten(0, 1)).unflatten(0, v.shape[:2])


class _Stack(nn.Module):
    def __init__(self, part: GraphConv, graph: Graph, sensors: int) -> None:
        super().__init__()
        self.sensors = sensors
        self.width = sensors * part.channels
        self.receptive_field = 1 + (part.kernel - 1) * part.layers
        self.graph = graph
        self.layers = nn.ModuleList(_Layer(part) for _ in range(part.layers))

    def forward(self, u: Tensor) -> Tensor:
        edges = self.graph()
        u = u.unflatten(1, (self.sensors, -1))
        for layer in self.layers:
            u = u + layer(u, edges)
        return u.flatten(1, 2)


class _Layer(nn.Module):
    def __init__(self, part: GraphConv) -> None:
        super().__init__()
        width = part.channels
        self.past = Conv(width, width, part.kernel, causal=part.causal)
        self.graph = GraphConvolution(width, width)
        self.mix = nn.Sequential(ACTIVATIONS[part.activation](), nn.Dropout(part.dropout), Pointwise(width, width))

    def forward(self, u: Tensor, edges: Tensor) -> Tensor:
        v = self.past(u.flatten(0, 1)).unflatten(0, u.shape[:2])
        return self.mix(self.graph(v, edges).flatten(0, 1)).unflatten(0, u.shape[:2])


class _BySensor(nn.Module):
    """Channels and condition `(n, sensors + condition, time)` to features of sensors `(n, sensors * width, time)`."""

    def __init__(self, sensors: int, condition: int, width: int) -> None:
        super().__init__()
        self.sensors = sensors
        self.linear = Pointwise(1 + condition, width)
        self.offset = nn.Parameter(torch.randn(sensors, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        own, shared = x[:, : self.sensors, None], x[:, None, self.sensors :]
        seen = torch.cat([own, shared.expand(-1, self.sensors, -1, -1)], dim=2)
        return (self.linear(seen.flatten(0, 1)).unflatten(0, seen.shape[:2]) + self.offset).flatten(1, 2)


class _ToSensors(nn.Module):
    """Features of each sensor `(n, sensors * width, time)` to parameters `(n, n_params * sensors, time)`."""

    def __init__(self, sensors: int, width: int, n_params: int) -> None:
        super().__init__()
        self.sensors = sensors
        self.linear = Pointwise(width, n_params)

    def forward(self, u: Tensor) -> Tensor:
        v = u.unflatten(1, (self.sensors, -1))
        return self.linear(v.flatten(0, 1)).unflatten(0, v.shape[:2]).movedim(2, 1).flatten(1, 2)
