"""Convolutional recurrent networks."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from anomaly_ae.nn.convolutions import Conv
from anomaly_ae.nn.core import Sizes
from anomaly_ae.nn.layers import ACTIVATIONS
from anomaly_ae.nn.sequences import SequenceBackbone
from anomaly_ae.ranges import COUNT, check_range

__all__ = ["ConvLSTM"]


class ConvLSTM(SequenceBackbone):
    r"""A long short-term memory whose products are convolutions: frames of steps in, one after the other.

    .. math:: i, f, o, g = \sigma, \sigma, \sigma, \tanh \bigl(W * x_j + U * h_{j-1} + b\bigr), \quad
              c_j = f \odot c_{j-1} + i \odot g, \quad h_j = o \odot \tanh c_j

    with :math:`x_j` the `j`-th stretch of `frame` steps; convolutions run inside a frame, the memory from frame to
    frame. Layers are residual: :math:`u \leftarrow u + h`. Without peephole connections. It remembers without bound, so
    that a series has to be read window by window.

    **Shape**: `(n, channels, time)` to features `(n, features, time)`, `(n, features, time / codes)` or
    `(n, features)`; codes back to `(n, n_params, channels, time)`. A condition is `(n, condition, time)`. Where frames
    do not divide the window, zeros come before it.

    Parameters
    ----------
    channels : int >= 1, default=32
        Features of each layer.
    kernel : int >= 1 (taps), default=3
        Width of both convolutions.
    frame : int >= 1 (steps), default=8
        Steps that are read together; 1 is the plain LSTM. The fewer frames in a window, the quicker.
    layers : int >= 1, default=1
        Recurrent layers on top of each other.
    causal : bool, default=True
        Whether a step knows the past only. Otherwise it knows its whole frame.
    codes : "step", "window" or int >= 1, default="step"
        A code for each time step, for the whole window (which it then knows, causal or not), or for so many steps each.
    activation : {"elu", "gelu", "leaky_relu", "relu", "selu", "sigmoid", "silu", "tanh"}, default="tanh"
        Nonlinearity of what a layer takes in and lets out: `tanh` in the formula.
    dropout : float in [0, 1), default=0
        Share of each layer's output silenced in training; off when scoring.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range or the rows are no windows.

    References
    ----------
    Shi et al. (2015), Convolutional LSTM network: a machine learning approach for precipitation nowcasting,
    arXiv:1506.04214.

    Examples
    --------
    >>> from anomaly_ae import ConvLSTM
    >>> ConvLSTM(channels=16, frame=4)
    ConvLSTM(channels=16, frame=4)
    """

    def __init__(
        self,
        channels: int = 32,
        kernel: int = 3,
        frame: int = 8,
        layers: int = 1,
        causal: bool = True,
        codes: str | int = "step",
        activation: str = "tanh",
        dropout: float = 0.0,
    ) -> None:
        self.channels = channels
        self.kernel = kernel
        self.frame = frame
        self.layers = layers
        self.causal = causal
        self.codes = codes
        self.activation = activation
        self.dropout = dropout

    def blocks(self, sizes: Sizes) -> _Stack:
        check_range(self, COUNT, "kernel", "frame", "layers")
        return _Stack(self)


class _Stack(nn.Module):
    receptive_field = inf

    def __init__(self, part: ConvLSTM) -> None:
        super().__init__()
        self.width = part.channels
        self.frame = part.frame
        self.layers = nn.ModuleList(
            ConvLSTMLayer(self.width, self.width, part.kernel, part.causal, part.activation) for _ in range(part.layers)
        )
        self.dropout = nn.Dropout(part.dropout)

    def forward(self, u: Tensor) -> Tensor:
        steps = u.shape[2]
        frames = pad(u, (-steps % self.frame, 0)).unflatten(2, (-1, self.frame)).movedim(2, 1)
        for layer in self.layers:
            frames = frames + self.dropout(layer(frames))
        return frames.movedim(1, 2).flatten(2)[..., -steps:]


class ConvLSTMLayer(nn.Module):
    """A convolutional LSTM cell run over frames, from a memory of zeros; the formula is `ConvLSTM`'s.

    **Shape**: `(n, frames, before, steps)` to `(n, frames, after, steps)`.
    """

    def __init__(self, before: int, after: int, kernel: int, causal: bool = True, activation: str = "tanh") -> None:
        super().__init__()
        self.input = Conv(before, 4 * after, kernel, causal=causal)
        self.memory = Conv(after, 4 * after, kernel, causal=causal, bias=False)
        self.activation = ACTIVATIONS[activation]()
        forget = self.input.bias[after : 2 * after]  # type: ignore[index]
        nn.init.ones_(forget)  # the memory is kept before anything is learned

    def forward(self, x: Tensor) -> Tensor:
        # what frames bring is one convolution for all of them; only what the memory brings waits for the one before
        brought = self.input(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        h = c = brought.new_zeros(len(x), brought.shape[2] // 4, x.shape[3])
        states = []
        for frame in brought.unbind(1):
            i, f, o, g = (frame + self.memory(h)).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * self.activation(g)
            h = o.sigmoid() * self.activation(c)
            states.append(h)
        return torch.stack(states, dim=1)
