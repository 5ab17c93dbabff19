"""The nearest of remembered rows; by an inverted file where there are many of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Search", "Searching", "chunks", "rows_of"]

CELLS = 500_000  # held at a time, of distances or of neighbours' cells
EVERYONE = 2048  # up to so many rows each is looked at
CENTRES = 64
LISTED = 1024  # rows that a centre knows, or more for many neighbours
ROUNDS = 5  # of k-means
GROUP = 8
MANY = 2  # groups for each that is looked for, or more: then these are looked at first
SPARE = 4  # candidates beyond k: those who tell them round, and a row may be one itself


class Search:
    """Finds the nearest of `memory` `(m, width)`: exactly up to 2048 rows, nearly so above.

    There, 64 centres (by k-means) each know the 1,024 rows that are nearest to them, beginning with those that have no
    nearer centre, and a row looks for neighbours among those of its own centre. Candidates are told by distances in
    float32, from that centre; what is found is measured without rounding. It depends on no other row. Of few rows the
    origin is the one centre, which knows all of them in float64. `packed` is the memory as kernels read it, where they
    are used: of many rows, on the CPU.

    References
    ----------
    Sivic and Zisserman (2003), Video Google: a text retrieval approach to object matching in videos, ICCV (inverted
    files).
    """

    def __init__(self, memory: Tensor, p: float = 2.0, most: int = 1) -> None:
        """`p` is the norm of distances, `most` the largest number of neighbours that will be asked for."""
        self.memory = memory
        self.p = p
        self.everyone = torch.arange(len(memory), device=memory.device)
        if len(memory) <= EVERYONE:
            self.centres, self.lists, kind = memory.new_zeros(1, memory.shape[1]), self.everyone[None], torch.float64
        else:
            self.centres = _centres(memory)
            self.lists, kind = self._lists(max(LISTED, 16 * most)), torch.float32
        listed = (memory[self.lists] - self.centres[:, None]).to(kind)
        self.listed = _squared(listed, places=False) if p == 2 else listed
        quick = len(self.centres) > 1 and memory.device.type == "cpu"
        self.packed = kernels().packed(memory.numpy()) if quick else None

    def _lists(self, count: int) -> Tensor:
        far = torch.cdist(self.centres, self.memory)
        far[far.argmin(0), self.everyone] -= 2 * far.max()
        return far.topk(min(count, len(self.memory)), largest=False).indices

    def __call__(self, places: Tensor, k: int, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Distances of `places` `(n, width)` to their `k` nearest, nearest first, and which these are: `(n, k)`.

        `own` `(n,)` says which of the memory a row is itself: that one is no neighbour of it.
        """
        k = min(k, self.lists.shape[1], max(1, len(self.memory) - (own is not None)))
        if self.packed is not None:
            return self._compiled(places, k, own)
        if len(self.centres) == 1:
            return self._found(places, self.everyone.new_zeros(len(places)), k, own)
        home = self._homes(places)
        order = home.argsort(stable=True)
        distance, which = self._found(places[order], home[order], k, None if own is None else own[order])
        back = order.argsort()
        return distance[back], which[back]

    def _homes(self, places: Tensor) -> Tensor:
        """The nearest centre of each place: `(n,)`."""
        squares, turned = self.centres.square().sum(1), self.centres.T
        return _joined([_least_of(torch.addmm(squares, x, turned, alpha=-2)) for x in chunks(places, len(squares))])

    def _compiled(self, places: Tensor, k: int, own: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is asked for, by kernels."""
        rows, home = places.double().contiguous(), self._homes(places)
        order = torch.from_numpy(home.numpy().astype(np.uint8).argsort(kind="stable"))  # by counting, as of bytes
        off = self.listed.new_zeros(len(rows), self.listed.shape[2])
        off[:, rows.shape[1] + 1 :] = 1  # before it, where a row's square would be, 0: that moves no rank
        kernels().offsets(*_arrays(rows, order, home, self.centres.double(), off))
        own = torch.full_like(home, -1) if own is None else own
        apart, which = rows.new_empty(len(rows), k), order.new_empty(len(rows), k)
        count, start = min(k + SPARE, self.lists.shape[1]), 0
        for some in chunks(order, self.lists.shape[1]):
            far = self._far(off[start : (start := start + len(some))], home[some])
            known, asked, found = _arrays(far, self.lists, home), _arrays(rows, some, own), _arrays(apart, which)
            kernels().nearest(*known, self.packed, *asked, float(self.p), count, *found)
        return apart.pow_(1 / self.p).to(places.dtype), which

    def _found(self, places: Tensor, home: Tensor, k: int, own: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is asked for, of places in the order of the centres that are their homes."""
        looked_at, start, found = self.lists.shape[1], 0, []
        for some in chunks(places, looked_at):
            block = slice(start, start := start + len(some))
            near = self._candidates(some, home[block], min(k + SPARE, looked_at))
            found.append(self._ranked(some, near, k, None if own is None else own[block]))
        distance, which = (_joined(parts) for parts in zip(*found, strict=True))
        return distance, which

    def _candidates(self, places: Tensor, home: Tensor, count: int) -> Tensor:
        """So many of those that the centres at `home` `(n,)`, in order, know: `(n, count)`."""
        off = (places - self.centres[home]).to(self.listed.dtype)
        far = self._far(_squared(off, places=True) if self.p == 2 else off, home)
        return self.lists.take(home[:, None] * self.lists.shape[1] + _smallest(far, count))

    def _far(self, rows: Tensor, home: Tensor) -> Tensor:
        """How far, roughly, rows are from those that the centres at `home` `(n,)`, in order, know: `(n, listed)`."""
        far = rows.new_empty(len(rows), self.lists.shape[1])
        start, (centres, counts) = 0, home.unique_consecutive(return_counts=True)
        for centre, rows_there in zip(centres.tolist(), counts.tolist(), strict=True):
            block = slice(start, start := start + rows_there)
            if self.p == 2:
                torch.mm(rows[block], self.listed[centre].T, out=far[block])
            else:
                far[block] = torch.cdist(rows[block], self.listed[centre], p=self.p)
        return far

    def _ranked(self, places: Tensor, near: Tensor, k: int, own: Tensor | None) -> tuple[Tensor, Tensor]:
        """The nearest `k` of candidates `(n, more)`, and how far away they are."""
        cells = near.shape[1] * self.memory.shape[1]
        pairs = zip(chunks(places, cells), chunks(near, cells), strict=True)
        distance = _joined(
            [torch.linalg.vector_norm(rows_of(self.memory, of).sub_(x[:, None]), self.p, dim=2) for x, of in pairs]
        )
        if own is not None:
            distance.masked_fill_(near == own[:, None], torch.inf)
        distance, rank = distance.sort(dim=1, stable=True)
        distance, near = distance[:, :k], near.gather(1, rank[:, :k])
        return distance.nan_to_num(posinf=0.0) if own is not None else distance, near


class Searching:
    """What scorers share that search among rows of a `memory`: the search is made when first it is needed, and again
    where the memory is another. Copies and pickles are without it."""

    memory: Tensor
    search: Search | None = None

    def searched(self, like: Tensor, p: float = 2.0, most: int = 1) -> Search:
        """The search, in the type of `like`."""
        if self.search is None or self.search.memory.dtype != like.dtype:
            self.search = Search(self.memory.to(like.dtype), p, most)
        return self.search

    def forget(self) -> None:
        """The memory is another one now."""
        self.search = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "search": None}

    def _load_from_state_dict(self, *args: Any) -> None:
        self.forget()
        super()._load_from_state_dict(*args)  # type: ignore[misc]


def kernels() -> Any:
    """The loops that numba compiles: a table of few rows is read without waiting for it."""
    from anomaly_ae.scoring import kernels

    return kernels


def _arrays(*tensors: Tensor) -> list[Any]:
    """Tensors as kernels take them."""
    return [tensor.numpy() for tensor in tensors]


def _squared(off: Tensor, places: bool) -> Tensor:
    """Rows such that a product of places with others is their squared distance: two columns more."""
    square, one = off.square().sum(-1, keepdim=True), torch.ones_like(off[..., :1])
    return torch.cat([off, square, one] if places else [-2 * off, one, square], dim=-1)


def _smallest(far: Tensor, count: int) -> Tensor:
    """Which of each row's numbers `(n, m)` are the smallest, in any order: `(n, count)`; `far` is lost.

    Where there are many, they lie in the groups of eight whose smallest are smallest, or among those left over.
    """
    groups, over = divmod(far.shape[1], GROUP)
    if groups < MANY * count:
        return _least(far, count)
    whole = groups * GROUP
    best = _least(far[:, :whole].unflatten(1, (GROUP, groups)).amin(1), count)
    of_each = torch.arange(0, whole, groups, device=far.device)
    left = torch.arange(whole, whole + over, device=far.device).expand(len(far), over)
    some = torch.cat([(best[:, None] + of_each[:, None]).flatten(1), left], dim=1)
    return some.gather(1, _least(far.gather(1, some), count))


def _least_of(far: Tensor) -> Tensor:
    """Which of each row's numbers `(n, m)` is the smallest: `(n,)`; of short rows numpy's is several times as quick."""
    return torch.from_numpy(far.numpy().argmin(1)) if far.device.type == "cpu" else far.argmin(1)


def _least(far: Tensor, count: int) -> Tensor:
    """The same, of all at once. Their last bits give way to their places, so that plain numbers are sorted."""
    kind = torch.int32 if far.dtype == torch.float32 else torch.int64
    bits = (far.shape[1] - 1).bit_length()
    places = torch.arange(far.shape[1], dtype=kind, device=far.device)
    packed = far.view(kind).bitwise_and_(-1 << bits).bitwise_or_(places)
    if far.device.type == "cpu":
        packed.numpy().partition(count - 1, axis=1)
        smallest = packed[:, :count]
    else:
        smallest = packed.topk(count, largest=False, sorted=False).values
    return smallest.bitwise_and((1 << bits) - 1).long()


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
