"""Eyes: views at work. Windows in, what they score and which channels they blame out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_ae.nn.core import Batch, Pass
from anomaly_ae.nn.model import Net
from anomaly_ae.overlap import one_thread
from anomaly_ae.series.windows import Windows, sliding_sums

CELLS = 2**20  # of windows that are looked at together: 8 MiB each time they are copied
WIDE = 512  # cells of a window, from which on more than one thread pays

Look = tuple[Tensor, Tensor | None]  # scores of windows (n,) and, if asked, what channels contribute (n, channels)


@dataclass
class Eye:
    """One view at work: its scorer over windows of `length` rows, by the net if it reads one."""

    scorer: Any
    length: int
    net: Net | None
    top: int | None  # channels that count; None: the scorer's own score
    seen: NDArray[np.intp]  # the cells that it looks at, of those in use
    # (length,): what a window counts for of which only so many rows are known, and the rest is their mirror image
    begun: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.begun = np.minimum(1, np.arange(1, self.length + 1) / self.counted)

    @property
    def warm_up(self) -> int | None:
        """Steps of a window that only say what was before; `None` where series cannot be read in one pass."""
        if self.net is None or not self.scorer.adds_steps:
            return None
        return getattr(self.net.backbone, "warm_up", None)

    @property
    def counted(self) -> int:
        """Steps of a window that count, the last ones."""
        return self.length - (self.warm_up or 0)

    def see(self, batch: Batch) -> Pass:
        """A pass over windows; without a net it knows these alone."""
        return self.net(batch) if self.net is not None else Pass(batch, batch, batch.x, (), None, None)  # type: ignore[arg-type]

    def blocks(self, windows: Windows) -> list[Windows]:
        """Windows, some at a time."""
        size = max(1, CELLS // max(1, windows.x.shape[1] * self.length))
        return [windows[start : start + size] for start in range(0, len(windows), size)]

    def looks(self, windows: Windows, device: torch.device, dtype: torch.dtype, explained: bool) -> Iterator[Look]:
        """What windows say, some at a time; those of each row of a run by one pass over it, where it says the same."""
        width = max(1, windows.x.shape[1])
        if self.warm_up is None or not windows.of_each_row:
            with few_threads(width * self.length):
                for some in self.blocks(windows):
                    yield self._judged(self.see(some.batch(device, dtype)), explained)
            return
        rows = max(4 * self.length, CELLS // width)
        for start in range(0, len(windows), rows):
            run = windows[start : start + rows].together()
            with few_threads(width * run.length):
                yield self._added(
                    self.see(run.batch(device, dtype)), explained, lambda x: sliding_sums(x, self.counted)
                )

    def _judged(self, p: Pass, explained: bool) -> Look:
        if self.warm_up is not None:
            return self._added(p, explained, lambda steps: steps.sum(0))
        if not explained:
            return self.scorer(p), None
        score, cells = self.scorer.judged(p)
        return score, cells.flatten(2).sum(2)

    def _added(self, p: Pass, explained: bool, over: Callable[[Tensor], Tensor]) -> Look:
        """What steps say after the warm-up, added up by `over` along their axis, the first.

        As if all steps of a window, and cells that are absent, were like those that count.
        """
        warm_up, whole = self.length - self.counted, self.length / self.counted
        filled = p.batch.x.new_ones(1)
        if p.batch.mask is not None:
            present = over(p.batch.mask.to(p.batch.x).mean(1).T[warm_up:])
            filled = 1 / (present / self.counted).clamp(min=1 / (p.batch.mask.shape[1] * self.length))
        scores, cells = [], []
        for said in self.scorer.by_step(p):
            scale = whole * (filled if said.gaps else torch.ones_like(filled))
            scores.append(scale * over(said.scores.T[warm_up:]))
            if explained:
                cells.append(scale[..., None] * over(said.cells.permute(2, 0, 1)[warm_up:]))
        return torch.stack(scores).sum(0).flatten(), torch.stack(cells).sum(0).flatten(0, -2) if explained else None


def few_threads(width: int) -> AbstractContextManager[None]:
    """One thread for torch where windows of so many cells are too narrow to gain from more."""
    return one_thread(width <= WIDE)
