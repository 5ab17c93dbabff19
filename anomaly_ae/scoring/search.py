"""The nearest of remembered rows; by an inverted file where there are many of them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Search", "chunks", "rows_of"]

CELLS = 500_000  # held at a time, of distances or of neighbours' cells
EVERYONE = 2048  # up to so many rows each is looked at
CENTRES = 64
LISTED = 1024  # rows that a centre knows, or more for many neighbours
ROUNDS = 5  # of k-means
SPARE = 4  # candidates beyond k where the search rounds to float32


class Search:
    """Finds the nearest of `memory` `(m, width)`: exactly up to 2048 rows, nearly so above.

    There, 64 centres (by k-means) each know the 1,024 rows that are nearest to them, beginning with those that have no
    nearer centre, and a row looks for neighbours among those of its own centre. What it finds depends on no other row.

    References
    ----------
    Sivic and Zisserman (2003), Video Google: a text retrieval approach to object matching in videos, ICCV (inverted
    files).
    """

    def __init__(self, memory: Tensor, p: float = 2.0, most: int = 1) -> None:
        """`p` is the norm of distances, `most` the largest number of neighbours that will be asked for."""
        self.memory = memory
        self.p = p
        self.squares = memory.square().sum(1)
        self.everyone = torch.arange(len(memory), device=memory.device)
        self.centres = _centres(memory) if len(memory) > EVERYONE else None
        self.lists = None if self.centres is None else self._lists(self.centres, max(LISTED, 16 * most))

    def _lists(self, centres: Tensor, count: int) -> Tensor:
        far = torch.cdist(centres, self.memory)
        far[far.argmin(0), self.everyone] -= 2 * far.max()
        return far.topk(min(count, len(self.memory)), largest=False).indices

    def __call__(self, places: Tensor, k: int, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Distances of `places` `(n, width)` to their `k` nearest, nearest first, and which these are: `(n, k)`.

        `own` `(n,)` says which of the memory a row is itself: that one is no neighbour of it.
        """
        k = min(k, max(1, len(self.memory) - (own is not None)))
        if self.centres is None or self.lists is None:
            return self._among(self.everyone, places, k, own)
        home = _joined([torch.cdist(some, self.centres).argmin(1) for some in chunks(places, CENTRES)])
        order = home.argsort(stable=True)
        found = []
        for centre, rows in enumerate(order.split(home.bincount(minlength=len(self.centres)).tolist())):
            if len(rows):
                found.append(self._among(self.lists[centre], places[rows], k, None if own is None else own[rows]))
        distance, which = (_joined(parts) for parts in zip(*found, strict=True))
        back = order.argsort()
        return distance[back], which[back]

    def _among(self, listed: Tensor, places: Tensor, k: int, own: Tensor | None) -> tuple[Tensor, Tensor]:
        """The nearest of those that are listed."""
        whole = listed is self.everyone
        memory = self.memory if whole else self.memory.index_select(0, listed)
        squares = self.squares if whole else self.squares[listed]
        spare = 0 if self.p == 2 else SPARE
        found, start = [], 0
        for some in chunks(places, len(memory)):
            if self.p == 2:
                far = torch.addmm(squares, some, memory.T, alpha=-2)  # less the row's own square, which is the same
            else:
                far = torch.cdist(some.float(), memory.float(), p=self.p)
            itself = None if own is None else listed == own[start : start + len(some), None]
            if itself is not None:
                far.masked_fill_(itself, torch.inf)
            near = far.topk(min(k + spare, len(memory)), largest=False, sorted=False).indices
            distance = self._measured(memory, some, near)
            if itself is not None:
                distance.masked_fill_(itself.gather(1, near), torch.inf)
            if near.shape[1] > 1:
                distance, rank = distance.sort(dim=1, stable=True)
                distance, near = distance[:, :k], near.gather(1, rank)[:, :k]
            found.append((distance, near if whole else listed[near]))
            start += len(some)
        distances, which = (_joined(parts) for parts in zip(*found, strict=True))
        return distances.nan_to_num(posinf=0.0) if own is not None else distances, which

    def _measured(self, memory: Tensor, places: Tensor, which: Tensor) -> Tensor:
        """Distances of places to those rows of memory that `which` `(n, k)` names, without a search's rounding."""
        found = []
        cells = which.shape[1] * memory.shape[1]
        for some, near in zip(chunks(places, cells), chunks(which, cells), strict=True):
            off = rows_of(memory, near).sub_(some[:, None])
            found.append(off.square().sum(2).sqrt() if self.p == 2 else off.abs().pow(self.p).sum(2).pow(1 / self.p))
        return _joined(found)


def chunks(rows: Tensor, cells: int) -> tuple[Tensor, ...]:
    """Rows in pieces, of which each takes at most half a million cells at `cells` a row."""
    most = max(1, CELLS // max(1, cells))
    return (rows,) if len(rows) <= most else rows.split(most)


def _joined(parts: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def rows_of(memory: Tensor, which: Tensor) -> Tensor:
    """The rows of memory that `which` `(n, k)` names: `(n, k, width)`."""
    return memory.index_select(0, which.flatten()).view(*which.shape, -1)  # several times as quick as `memory[which]`


def _centres(memory: Tensor) -> Tensor:
    """Centres of rows by a few rounds of k-means that start from rows evenly spaced: `(centres, width)`."""
    some = memory[torch.linspace(0, len(memory) - 1, min(len(memory), 32 * CENTRES)).long()]
    centres = some[:: len(some) // CENTRES][:CENTRES].clone()
    for _ in range(ROUNDS):
        home = torch.cdist(some, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, home, some)
        count = home.bincount(minlength=len(centres))[:, None]
        centres = torch.where(count > 0, sums / count.clamp(min=1), centres)
    return centres
