"""The nouns that every part speaks in: `Sizes`, `Batch`, `Clock`, `Level`, `Pass` and `Part`.

A model is a sum of parts. A part stores its hyperparameters in its constructor, makes its tensors in `build`,
and is then called as a `torch.nn.Module`. What it may see is one `Batch` or one `Pass`; what it gives back is
a tensor, a distribution or a tuple of `Level`. Nothing else crosses from one part to another.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from math import gcd
from typing import Any, ClassVar, NamedTuple, Self

import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from anomaly_ae.errors import AnomalyError, ConfigError, IncompatiblePartsError
from anomaly_ae.numbered import NumberedMixin
from anomaly_ae.ranges import check_flags

ROLES = {"backbone": "encoder", "latent": "sample", "likelihood": "error", "scorer": "learn"}  # what a part does there
EXAMPLES = {  # of parts that have the qualities which others ask for
    "class": "ClassGaussian()",
    "code without noise": "Point(), as AutoencoderDetector has",
    "density": "StandardNormal(), as VAEDetector has",
    "hierarchy of codes": "Ladder()",
    "normal posterior": "Gaussian(), as VAEDetector has",
    "posterior": "Gaussian(), as VAEDetector has (AutoencoderDetector is for codes that are points)",
    "sigmoid activation": 'Dense(activation="sigmoid")',
    "squared error of a known scale": "Normal()",
    "trained encoder": "Dense()",
}
LEFT_OUT = "rows that do not train"  # a note of a pass: which they are, `(n,)`


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a part must know before it can make tensors.

    `shape` is one row's shape without the batch axis: (columns,) of a table, (channels, time) of a window. `condition`
    is how many cells tell the net what else is known, `(n, condition)` of rows and `(n, condition, time)` of windows:
    `context` of them are of columns that the user gave for that, the others say where gaps are. `features` is the width
    of what the encoder hands to the latent, and `steps` what it has beside: () where a code stands for a whole row,
    (time,) where each time step has its own. `code` is the width of the codes that face the prior. `groups` says of a
    row's columns or channels, in order, which belong together and what they hold, as (kind, width): ("numeric", 1),
    ("binary", 1) for 0 or 1, ("category", k) for one of `k` levels, one-hot. Empty where every one is a number.
    """

    shape: tuple[int, ...]
    condition: int = 0
    features: int = 0
    steps: tuple[int, ...] = ()
    code: int = 0
    context: int = 0
    groups: tuple[tuple[str, int], ...] = ()

    @property
    def columns(self) -> tuple[tuple[str, int], ...]:
        """`groups`, or a number for each column or channel where these are not told apart."""
        return self.groups or (("numeric", 1),) * self.shape[0]

    @property
    def kinds(self) -> list[str]:
        """What each column or channel holds."""
        return [kind for kind, width in self.columns for _ in range(width)]

    @property
    def per_feature(self) -> tuple[int, ...]:
        """Shape of one number a column or channel, which broadcasts over time steps: (columns,) or (channels, 1)."""
        return (self.shape[0], *[1] * (len(self.shape) - 1))


@dataclass(frozen=True, slots=True)
class Batch:
    """What came in: rows `x` (n, ...), which cells are present (`mask`), what else is known, and labels.

    `label` `(n,)` is there where a head on the codes learns by it, or a part that asks for labels: then it is 1 of a
    known anomaly, 0 of a row that is known to be normal, NaN where nobody knows.
    """

    x: Tensor
    mask: Tensor | None = None
    condition: Tensor | None = None
    label: Tensor | None = None

    def some(self, most: int) -> Batch:
        """At most so many of the rows, spread evenly: windows come as they followed each other."""
        return self if len(self) <= most else self.take(torch.linspace(0, len(self) - 1, most).round().long())

    def take(self, rows: Tensor | slice) -> Batch:
        """The batch of these rows."""
        rest = (self.mask, self.condition, self.label)
        return Batch(self.x[rows], *(None if values is None else values[rows] for values in rest))

    def __len__(self) -> int:
        return len(self.x)


@dataclass(slots=True)
class Clock:
    """Where training stands: optimiser step `step` of `steps`."""

    step: int = 0
    steps: int = 0

    @property
    def progress(self) -> float:
        """Share of training that is done, in [0, 1]; 1 when nothing is being trained."""
        return 1.0 if self.steps == 0 else min(1.0, self.step / self.steps)


class Level(NamedTuple):
    """One level of codes: posterior `q`, the prior `p` it faces, its sample `z`, and what it charges by itself."""

    q: Distribution | None
    p: Distribution | None
    z: Tensor
    cost: Tensor | float = 0.0


@dataclass(frozen=True, slots=True)
class Pass:
    """Everything that one forward pass knows: `batch` as given, `seen` as corrupted, features, levels, likelihood.

    `peers` are the passes of the other members of an ensemble over the same rows. `notes` is what those who read the
    pass leave for each other, so that a search done once serves all. `share` is what part of the rows that learn in the
    end is here: of rows that are too many, so many fewer are learned from.
    """

    batch: Batch
    seen: Batch
    h: Tensor
    levels: tuple[Level, ...]
    px: Distribution
    net: Any
    clock: Clock = field(default_factory=Clock)
    peers: tuple[Pass, ...] = ()
    notes: dict[Any, Any] = field(default_factory=dict)
    share: float = 1.0


class Part(NumberedMixin, BaseEstimator, nn.Module):
    """A piece of a model: a scikit-learn estimator by its hyperparameters, a torch module by its tensors.

    The constructor of a subclass only stores its arguments. `offers` names the qualities that other parts may
    ask for; `needs` maps an axis to the quality that this part asks of whatever stands on that axis.
    """

    offers: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[Mapping[str, str]] = {}
    needs_labels: ClassVar[bool] = False  # whether rows that are known for anomalies teach it something
    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls) -> None:
        # what help() and notebooks show is the constructor's parameters, not those of __new__
        signature = inspect.signature(cls.__init__)
        cls.__signature__ = signature.replace(
            parameters=list(signature.parameters.values())[1:], return_annotation=inspect.Signature.empty
        )

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # torch wants its registries before any attribute is set; scikit-learn wants constructors that only store.
        self = super().__new__(cls)
        nn.Module.__init__(self)
        return self

    def __init__(self) -> None:
        pass

    def build(self, sizes: Sizes) -> None:
        """Make the tensors; a part without any leaves this alone."""

    def join(self, net: Any) -> None:
        """Hook of the net that the part is of, or that it scores by, once all of it is there."""

    def pieces(self) -> list[Part]:
        """This part and the parts that it is made of."""
        return [self]

    def after_step(self, p: Pass) -> None:
        """Hook of the training loop: once a step, without gradients, with the pass that it learns from.

        It may change buffers in place, not weights.
        """

    def has(self, hook: str) -> bool:
        """Whether it does something at a hook of the training loop."""
        return getattr(type(self), hook) is not getattr(Part, hook)

    def start(self, p: Pass) -> None:
        """Hook of the training loop, once before the first step, with a pass over rows of the fit set."""

    def solve(self, p: Pass) -> None:
        """Hook of the training loop, once after the last step, with a pass over rows of the fit set."""


def draw(like: Tensor) -> Tensor:
    """Standard normal noise in the shape, type and place of `like`."""
    return torch.randn_like(like)


def gumbel(like: Tensor) -> Tensor:
    """Standard Gumbel noise in the shape, type and place of `like`; the difference of two draws is logistic."""
    least = torch.finfo(like.dtype).tiny
    return -torch.rand_like(like).clamp(min=least).log().neg().log()


def drawn(q: Distribution, noisy: bool = True) -> Tensor:
    """A sample of a distribution by the reparameterization trick, or its mean where it is not to be `noisy`."""
    return q.mean + q.stddev * draw(q.mean) if noisy else q.mean


def spread(rows: Tensor, count: int) -> Tensor:
    """So many of the rows `(n, ...)`, spread evenly over all by steps of the golden section, in tune with no rhythm."""
    n = len(rows)
    step = max(1, round(0.618034 * n))
    while gcd(step, n) > 1:
        step += 1
    return rows[torch.arange(count, device=rows.device) * step % n]


def group_of_cells(groups: tuple[tuple[str, int], ...]) -> Tensor:
    """The number of each cell's group: `(cells,)`."""
    return torch.repeat_interleave(torch.arange(len(groups)), torch.tensor([width for _, width in groups]))


def by_members(p: Pass, reading: Callable[[Pass], Tensor]) -> Tensor:
    """What is read in a pass, and in those of its peers: their mean."""
    return torch.stack([reading(member) for member in (p, *p.peers)]).mean(0) if p.peers else reading(p)


def row_sum(cells: Tensor) -> Tensor:
    """Sum over everything but the batch axis: (n, ...) to (n,)."""
    return (cells if cells.dim() == 2 else cells.flatten(1)).sum(1)


def present(p: Pass, cells: Tensor) -> Tensor:
    """Cells `(n, ...)` with 0 where the row has none."""
    return cells if p.batch.mask is None else torch.where(p.batch.mask, cells, 0.0)


def feature_mean(cells: Tensor, present: Tensor | None) -> Tensor:
    """Mean of each column or channel over the cells that are present, NaN without any: (n, d, ...) to (d, 1, ...)."""
    axes = [0, *range(2, cells.dim())]
    if present is None:
        return cells.mean(axes, keepdim=True)[0]
    total = torch.where(present, cells, 0.0).sum(axes, keepdim=True)
    return (total / present.sum(axes, keepdim=True))[0]


def shared_out(rows: Tensor) -> Tensor:
    """What each of some rows, true in `(n,)`, counts so that together they count as all do; 0 for others: `(n,)`."""
    return rows * (len(rows) / rows.sum().clamp(min=1))


def kl(level: Level) -> Tensor:
    """KL(q(z|x) || p(z)) of one level, in nats: (n, dim, ...), or (n, 1, ...) where a prior takes codes as a whole."""
    if level.q is None or level.p is None:
        raise IncompatiblePartsError(
            "A KL divergence needs a posterior and a prior, however: the level's code is a point. Choose a latent with "
            "both."
        )
    return kl_divergence(level.q, level.p)


def codes(levels: tuple[Level, ...]) -> Tensor:
    """What the decoder takes: the codes of all levels side by side, `(n, code)` or `(n, code, time)`."""
    return levels[0].z if len(levels) == 1 else torch.cat([level.z for level in levels], dim=1)


def total_kl(p: Pass) -> Tensor:
    """KL divergence summed over all levels and dimensions, in nats: (n,); zero where codes are points."""
    per_level = [row_sum(kl(level)) for level in p.levels if level.q is not None]
    return reduce(torch.add, per_level) if per_level else p.batch.x.new_zeros(len(p.batch.x))


def pieces_of(part: Part, inner: Any) -> list[Part]:
    """A part, and the pieces of those that it has been given in a sequence."""
    if not isinstance(inner, Sequence) or not all(isinstance(one, Part) for one in inner):
        raise ConfigError(f"{type(part).__name__} needs a list of parts, however: {inner!r}. Give one, as [a, b].")
    return [part, *(piece for one in inner for piece in one.pieces())]


def untold(part: Part) -> ConfigError:
    """What a part raises that cannot do without known anomalies."""
    return ConfigError(
        f"{type(part).__name__} needs rows that are known for anomalies, however: fit was told none. Give y, -1 for "
        "each of them, or leave it out."
    )


def check_roles(parts: Mapping[str, Part | None]) -> None:
    """Refuse a part on an axis where it cannot do what is asked of it there; raises ConfigError."""
    for axis, part in parts.items():
        wanted = ROLES.get(axis, "forward")
        if part is not None and getattr(type(part), wanted, None) in (None, nn.Module.forward):
            raise ConfigError(f"A detector needs a {axis}, however: {part!r} is none. Take a part for this axis.")


def lacking(part: Part, parts: Mapping[str, Part | None]) -> dict[str, str]:
    """What a part needs and its neighbours do not offer, by axis."""
    there = {axis: getattr(neighbour, "offers", ()) for axis, neighbour in parts.items()}
    return {axis: quality for axis, quality in part.needs.items() if quality not in there.get(axis, ())}


def faces_prior(parts: Mapping[str, Part | None]) -> bool:
    """Whether codes face the prior: points where a term has them, others unless they have one of their own."""
    latent = parts.get("latent")
    if "posterior" in getattr(latent, "offers", ()):
        return "prior of its own" not in latent.offers  # type: ignore[union-attr]
    return any("prior" in piece.needs for part in parts.values() if isinstance(part, Part) for piece in part.pieces())


def check_compatible(parts: Mapping[str, Part | None]) -> None:
    """Refuse a combination in which some part needs what its neighbour does not offer.

    Raises
    ------
    IncompatiblePartsError
        Names both parts and what is missing.
    """
    check_roles(parts)
    pieces = [piece for part in parts.values() if part is not None for piece in part.pieces()]
    for part in pieces:
        check_flags(part)
        for axis, quality in lacking(part, parts).items():
            neighbour, who = parts.get(axis), type(part).__name__
            found = "there is none" if neighbour is None else repr(neighbour)
            choose = f"Set {axis}={EXAMPLES[quality]}" if quality in EXAMPLES else f"Choose another {axis}"
            raise IncompatiblePartsError(
                f"{who} needs a {axis} with a {quality}, however: {found}. {choose}, or leave {who} out."
            )
    prior, latent = parts.get("prior"), parts.get("latent")
    if prior is not None and not faces_prior(parts):
        raise IncompatiblePartsError(
            f"{type(prior).__name__} needs a latent or a divergence that faces it, however: {latent!r} and "
            f"{parts.get('divergence')!r}. Choose another latent, as VAEDetector has, or leave the prior out."
        )


def place_for(device: str) -> str:
    """Where to compute, "auto" is a CUDA device if there is one; raises ConfigError where torch has no such device."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        torch.empty(0, device=name)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f'A detector needs a device that torch has, however: {device!r} ({reason}). Set device="auto", or "cpu".'
        ) from error
    return name


@contextmanager
def put_together(parts: Mapping[str, Any], device: str, *others: Any) -> Iterator[None]:
    """Build parts; what these raise that do not go together is then a ConfigError that names all of them."""
    try:
        yield
    except AnomalyError:
        raise
    except (ArithmeticError, AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        there = [f"{axis} {part!r}" for axis, part in parts.items() if part is not None]
        raise ConfigError(
            f"A detector needs parts on their own axes, values of their own types and a device, however: {error} "
            f"(device {device}, {', '.join([*there, *map(repr, others)])}). Compare with the docstrings of these parts."
        ) from error
