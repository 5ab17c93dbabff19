"""Convolutions over time: standard, dilated, separable, strided and transposed, and large-kernel attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from anomaly_ae.nn.layers import Pointwise


class Conv(nn.Conv1d):
    r"""A convolution that keeps the number of time steps, dilated or not; causal, or centred on its step.

    .. math:: y_t = b + \sum_{j=0}^{k-1} W_j \, x_{t - j d} \quad \text{(causal)}, \qquad
              y_t = b + \sum_{j=0}^{k-1} W_j \, x_{t + a - j d}, \;
              a = \lfloor (k - 1) d / 2 \rfloor \quad \text{(centred)}

    with zeros before the first step and after the last.

    **Shape**: `(n, before, time)` to `(n, after, time)`.

    Parameters
    ----------
    before, after : int >= 1
        Features in and out.
    kernel : int >= 1 (taps)
        :math:`k`.
    dilation : int >= 1 (steps), default=1
        :math:`d`, from tap to tap.
    causal : bool, default=True
        Whether nothing later than its step is read.
    bias : bool, default=True
        Whether there is a `b`.

    References
    ----------
    Bai, Kolter and Koltun (2018), An empirical evaluation of generic convolutional and recurrent networks for sequence
    modeling, arXiv:1803.01271.

    Examples
    --------
    >>> import torch
    >>> Conv(3, 8, kernel=5, dilation=4)(torch.zeros(2, 3, 100)).shape
    torch.Size([2, 8, 100])
    """

    def __init__(
        self, before: int, after: int, kernel: int, dilation: int = 1, causal: bool = True, bias: bool = True
    ) -> None:
        super().__init__(before, after, kernel, dilation=dilation, bias=bias)
        self.zeros = _zeros(kernel, dilation, causal)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad(x, self.zeros))


class Depthwise(nn.Conv1d):
    r"""A convolution of each feature by itself, dilated or not; causal, or centred on its step.

    .. math:: y_{ct} = b_c + \sum_{j=0}^{k-1} w_{cj} \, x_{c, t - j d}

    **Shape**: `(n, features, time)` to the same. Parameters as of `Conv`.
    """

    bias: Tensor

    def __init__(self, features: int, kernel: int, dilation: int = 1, causal: bool = True) -> None:
        super().__init__(features, features, kernel, dilation=dilation, groups=features)
        self.zeros = _zeros(kernel, dilation, causal)

    def forward(self, x: Tensor) -> Tensor:
        # tap by tap: torch's grouped convolution is several times slower where dilated or in float64, as in scoring
        steps, x = x.shape[-1], pad(x, self.zeros)
        y = self.bias[:, None]
        for j in range(self.kernel_size[0]):
            start = j * self.dilation[0]
            y = torch.addcmul(y, x[..., start : start + steps], self.weight[..., j])
        return y


class Separable(nn.Sequential):
    r"""A depthwise convolution, then a 1x1 convolution: `Ck + CC'` weights in place of `CC'k`.

    **Shape**: `(n, before, time)` to `(n, after, time)`. Parameters as of `Conv`.

    References
    ----------
    Chollet (2017), Xception: deep learning with depthwise separable convolutions, arXiv:1610.02357.

    Examples
    --------
    >>> layer = Separable(32, 64, kernel=7)
    >>> sum(weight.numel() for weight in layer.parameters()) - 32 - 64 == 32 * 7 + 32 * 64  # but for biases
    True
    """

    def __init__(self, before: int, after: int, kernel: int, dilation: int = 1, causal: bool = True) -> None:
        super().__init__(Depthwise(before, kernel, dilation, causal), Pointwise(before, after))


class LargeKernelAttention(nn.Module):
    r"""A gate that sees far for little: a large kernel taken apart into depthwise, dilated depthwise and 1x1.

    .. math:: y = x \odot W (D_{k=7,\, d=3} * (D_{k=5} * x))

    Its receptive field is 1 + 4 + 18 = 23 steps.

    **Shape**: `(n, features, time)` to the same.

    Parameters
    ----------
    features : int >= 1
        How many.
    causal : bool, default=True
        Whether nothing later than its step is read.

    References
    ----------
    Guo et al. (2022), Visual attention network, arXiv:2202.09741.
    """

    receptive_field = 23

    def __init__(self, features: int, causal: bool = True) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            Depthwise(features, 5, causal=causal),
            Depthwise(features, 7, dilation=3, causal=causal),
            Pointwise(features, features),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Strided(nn.Conv1d):
    r"""One step for every `stride` steps, which must divide the time.

    **Shape**: `(n, before, time)` to `(n, after, time / stride)`.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__(before, after, stride, stride)


class Transposed(nn.ConvTranspose1d):
    r"""`stride` steps for every one: the transposed convolution, which takes back what `Strided` does to the shape.

    **Shape**: `(n, before, time)` to `(n, after, time * stride)`.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__(before, after, stride, stride)


def _zeros(kernel: int, dilation: int, causal: bool) -> tuple[int, int]:
    """Zeros before the first step and after the last, so that there are as many steps out as in."""
    total = (kernel - 1) * dilation
    after = 0 if causal else total // 2
    return total - after, after
