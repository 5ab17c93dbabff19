"""What backbones over windows share: where codes stand in time, what is read, and what is written."""

from __future__ import annotations

from math import ceil, inf
from typing import Any

from torch import Tensor, nn

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.convolutions import Strided, Transposed
from anomaly_ae.nn.core import Part, Sizes
from anomaly_ae.nn.layers import Pointwise, beside, check_hidden
from anomaly_ae.ranges import COUNT, check_range, is_within

WIDEST = 128  # features of a code that stands for many steps


class SequenceBackbone(Part):
    r"""Blocks that keep the time steps, between a layer that reads channels and one that writes parameters.

    .. math:: h = G \, \mathrm{blocks}(W_r [x, c]), \qquad
              \mathrm{params} = W_w \, \mathrm{blocks}'(W_z [G' z, c])

    with `c` the condition and `G` what gathers steps into codes: nothing, a strided convolution, or all steps of a
    window at once. A backbone says what its blocks are, has the parameters `channels`, `causal`, `codes`, `activation`
    and `dropout`, and inherits the rest.

    `receptive_field`, known after `encoder`, is the number of input steps that an output step depends on. With
    `codes="step"` a pass over a whole series gives what windows give, wherever all of these are inside the window:
    where it is causal too, from step `warm_up` of the window on. That is `None` where it is never so.
    """

    offers = frozenset({"trained encoder"})

    channels: int
    causal: bool
    codes: Any
    activation: str
    dropout: float
    receptive_field: float
    warm_up: int | None = None

    def blocks(self, sizes: Sizes) -> Any:
        """Module that takes `(n, width, time)` to the same; has `width` and `receptive_field` (steps)."""
        raise NotImplementedError

    def reader(self, width: int, sizes: Sizes) -> nn.Module:
        """Module that takes channels and condition `(n, channels + condition, time)` to `(n, width, time)`."""
        return Pointwise(sizes.shape[0] + sizes.condition, width)

    def writer(self, width: int, n_params: int, sizes: Sizes) -> nn.Module:
        """Module that takes `(n, width, time)` to `(n, n_params * channels, time)`."""
        return Pointwise(width, n_params * sizes.shape[0])

    def encoder(self, sizes: Sizes) -> nn.Module:
        """Module that takes `(x, condition)` to features `(n, features, time)`, or `(n, features)` of a window."""
        every = self._every(sizes)
        blocks = self.blocks(sizes)
        steps = () if self.codes == "window" else (sizes.shape[1] // every,)
        self.receptive_field = _receptive_field(blocks.receptive_field, every) if steps else sizes.shape[1]
        within = self.causal and steps == sizes.shape[1:] and self.receptive_field <= sizes.shape[1]
        self.warm_up = int(self.receptive_field) - 1 if within else None
        return _Encoder(self.reader(blocks.width, sizes), blocks, every, steps)

    def decoder(self, dim: int, n_params: int, sizes: Sizes) -> nn.Module:
        """Module that takes `(z, condition)` to parameters `(n, n_params, channels, time)`."""
        blocks = self.blocks(sizes)
        writer = self.writer(blocks.width, n_params, sizes)
        return _Decoder(dim, sizes.condition, blocks, writer, self._every(sizes), n_params)

    def _every(self, sizes: Sizes) -> int:
        """How many steps share a code."""
        who = type(self).__name__
        check_hidden(self)
        check_range(self, COUNT, "channels")
        if len(sizes.shape) != 2:
            raise ConfigError(
                f"{who} needs windows (channels, time), however: rows of shape {sizes.shape}. Use Dense for tables."
            )
        steps = sizes.shape[1]
        every = {"step": 1, "window": steps}.get(self.codes, self.codes)
        if not is_within(every, COUNT) or steps % every:
            raise ConfigError(
                f'{who} needs codes to be "step", "window" or a number of steps that divides the window, however: '
                f"{self.codes!r} with {steps} steps. Choose one of these."
            )
        if self.codes != "window" and every > 1 and self.causal:
            raise ConfigError(
                f"{who} needs a code for each step where it is causal, however: codes={every}. Set causal=False."
            )
        return every


class _Encoder(nn.Module):
    def __init__(self, reader: nn.Module, blocks: Any, every: int, steps: tuple[int, ...]) -> None:
        super().__init__()
        self.features = blocks.width if every == 1 else min(WIDEST, blocks.width)
        self.steps = steps
        self.reader = reader
        self.blocks = blocks
        self.gather = nn.Identity() if every == 1 else Strided(blocks.width, self.features, every)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        h = self.gather(self.blocks(self.reader(beside(x, condition))))
        return h if self.steps else h.flatten(1)


class _Decoder(nn.Module):
    def __init__(self, dim: int, condition: int, blocks: Any, writer: nn.Module, every: int, n_params: int) -> None:
        super().__init__()
        width = dim if every == 1 else min(WIDEST, blocks.width)
        self.spread = nn.Identity() if every == 1 else Transposed(dim, width, every)
        self.reader = Pointwise(width + condition, blocks.width)
        self.blocks = blocks
        self.writer = writer
        self.n_params = n_params

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        u = self.spread(z if z.dim() == 3 else z[..., None])
        return self.writer(self.blocks(self.reader(beside(u, condition)))).unflatten(1, (self.n_params, -1))


def _receptive_field(blocks: float, every: int) -> float:
    """Steps in that a step out depends on, through two stacks of blocks with codes between them."""
    if blocks == inf:
        return inf
    return blocks + every * (1 + ceil((blocks - 1) / every)) - 1
