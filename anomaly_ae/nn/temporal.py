"""Temporal convolutional networks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.convolutions import Conv, LargeKernelAttention, Separable
from anomaly_ae.nn.core import Sizes
from anomaly_ae.nn.layers import ACTIVATIONS, BatchNorm, Pointwise
from anomaly_ae.nn.sequences import SequenceBackbone
from anomaly_ae.ranges import COUNT, check_range, is_within

__all__ = ["TCN"]


class TCN(SequenceBackbone):
    r"""Residual blocks of dilated convolutions, which see exponentially far back: the temporal convolutional network.

    .. math:: u \leftarrow u + W \, \mathrm{dropout}\bigl(a(\mathrm{bn}(K_d * u))\bigr), \quad d = d_1, \dots, d_m

    The decoder has a stack of such blocks of its own. A stack has the receptive field
    :math:`r = 1 + (k - 1) \sum_i d_i`, with large-kernel attention 22 more; both together have :math:`2 r - 1`.

    **Shape**: `(n, channels, time)` to features `(n, features, time)`, `(n, features, time / codes)` or
    `(n, features)`; codes back to `(n, n_params, channels, time)`. A condition is `(n, condition, time)`.

    Parameters
    ----------
    channels : int >= 1, default=32
        Features of each block.
    kernel : int >= 2 (taps), default=3
        :math:`k`.
    length : int >= 1 (steps) or None, default=None
        How much a code must see: dilations double, 1, 2, 4, ..., until one stack's receptive field has that many
        steps. `None` is as many as keep the receptive field of both stacks within the window: in a series each code
        then sees much, and few steps of a window, those that see it all, count at a time.
    dilations : sequence of int >= 1 or None, default=None
        Dilation of each block, in place of `length`.
    causal : bool, default=True
        Whether a step knows the past only. Otherwise convolutions are centred.
    separable : bool, default=False
        Take convolutions apart into depthwise and 1x1: about `kernel` times fewer weights.
    attention : {"large-kernel"} or None, default=None
        A gate on the features after the last block, which sees 23 steps.
    codes : "step", "window" or int >= 1, default="step"
        A code for each time step, for the whole window (which it then knows, causal or not), or for so many steps each.
    activation : {"elu", "gelu", "leaky_relu", "relu", "selu", "sigmoid", "silu", "tanh"}, default="relu"
        Nonlinearity in each block.
    dropout : float in [0, 1), default=0
        Share of hidden units silenced in training; off when scoring.
    batch_norm : bool, default=False
        Normalise in each block by the batch in training, by running statistics when scoring.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range or the rows are no windows.

    References
    ----------
    Bai, Kolter and Koltun (2018), arXiv:1803.01271; Thill, Konen, Wang and Bäck (2021), Temporal convolutional
    autoencoder for unsupervised anomaly detection in time series, Applied Soft Computing 112; Guo et al. (2022),
    arXiv:2202.09741 (attention).

    Examples
    --------
    >>> from anomaly_ae import TCN
    >>> TCN(channels=16, length=60, separable=True)
    TCN(channels=16, length=60, separable=True)
    """

    def __init__(
        self,
        channels: int = 32,
        kernel: int = 3,
        length: int | None = None,
        dilations: Sequence[int] | None = None,
        causal: bool = True,
        separable: bool = False,
        attention: str | None = None,
        codes: str | int = "step",
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        self.channels = channels
        self.kernel = kernel
        self.length = length
        self.dilations = dilations
        self.causal = causal
        self.separable = separable
        self.attention = attention
        self.codes = codes
        self.activation = activation
        self.dropout = dropout
        self.batch_norm = batch_norm

    def blocks(self, sizes: Sizes) -> _Stack:
        return _Stack(self, self._dilations(sizes.shape[1]))

    def _dilations(self, time: int) -> list[int]:
        check_range(self, COUNT, "kernel")
        if self.attention not in (None, "large-kernel"):
            raise ConfigError(
                f'TCN needs attention to be "large-kernel" or None, however: {self.attention!r}. Choose one of these.'
            )
        if self.dilations is not None:
            if self.length is not None or not all(is_within(d, COUNT) for d in self.dilations):
                raise ConfigError(
                    f"TCN takes a length, or dilations of 1 or more, however: {self.length!r} and {self.dilations!r}. "
                    "Set one of them."
                )
            return list(self.dilations)
        check_range(self, COUNT, "length", optional=True)
        if self.kernel < 2:
            raise ConfigError("TCN needs a kernel of 2 or more to see a length, however: kernel=1. Try 3.")
        gate = LargeKernelAttention.receptive_field - 1 if self.attention else 0

        def seen(m: int) -> int:
            return 1 + gate + (self.kernel - 1) * (2**m - 1)

        m = 1
        while seen(m) < self.length if self.length is not None else 2 * seen(m + 1) - 1 <= time:
            m += 1
        return [2**i for i in range(m)]


class _Stack(nn.Module):
    def __init__(self, part: TCN, dilations: Sequence[int]) -> None:
        super().__init__()
        self.width = part.channels
        self.receptive_field = 1 + (part.kernel - 1) * sum(dilations)
        self.residuals = nn.ModuleList(_residual(part, dilation) for dilation in dilations)
        self.attention: nn.Module = nn.Identity()
        if part.attention:
            self.attention = LargeKernelAttention(part.channels, part.causal)
            self.receptive_field += LargeKernelAttention.receptive_field - 1

    def forward(self, u: Tensor) -> Tensor:
        for residual in self.residuals:
            u = u + residual(u)
        return self.attention(u)


def _residual(part: TCN, dilation: int) -> nn.Sequential:
    width = part.channels
    convolution = (Separable if part.separable else Conv)(width, width, part.kernel, dilation, part.causal)
    norm = [BatchNorm(width)] if part.batch_norm else []
    dropout = [nn.Dropout(part.dropout)] if part.dropout else []
    return nn.Sequential(convolution, *norm, ACTIVATIONS[part.activation](), *dropout, Pointwise(width, width))
