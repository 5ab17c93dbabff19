"""Terms of the loss beside the reconstruction: what divergences and penalties have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Part, Pass, Sizes, pieces_of

__all__ = ["Sum"]


class Term(Part):
    """What a pass pays, `(n,)` or a scalar, in nats a row; terms add up by `+`."""

    deals_with: ClassVar[str] = ""  # what is paid for by it, and may not be paid for twice
    pays_for_cells: ClassVar[bool] = False  # whether it stands in for the reconstruction as well

    def __add__(self, other: Term) -> Sum:
        return Sum([*_flat(self), *_flat(other)]) if isinstance(other, Term) else NotImplemented


class Sum(Term):
    r"""Several divergences, or several penalties, at once; `KL() + TotalCorrelation()` makes one.

    .. math:: \sum_i t_i

    **Shape**: a pass over `n` rows to a scalar.

    Parameters
    ----------
    terms : sequence of divergences or penalties
        What is added up.

    Raises
    ------
    ConfigError
        At `fit`, when there is none, or two deal with the same: codes that pay their KL divergence from the prior, or
        the rows that are rebuilt worst.

    References
    ----------
    Zhao, Song and Ermon (2019), InfoVAE, arXiv:1706.02262 (what such sums are good for).

    Examples
    --------
    >>> from anomaly_ae import KL, MMD, VAEDetector
    >>> VAEDetector(divergence=KL() + MMD()).divergence
    Sum(terms=[KL(), MMD()])
    """

    def __init__(self, terms: Sequence[Part] = ()) -> None:
        self.terms = terms

    def pieces(self) -> list[Part]:
        return pieces_of(self, self.terms)

    def build(self, sizes: Sizes) -> None:
        if not self.terms or not all(isinstance(term, Term) for term in self.terms):
            raise ConfigError(
                f"Sum needs divergences or penalties, however: {self.terms!r}. Give one or more, as [KL(), DIP()]."
            )
        first: dict[str, Part] = {}
        for term in self.pieces():
            what = getattr(term, "deals_with", "")
            if what and first.setdefault(what, term) is not term:
                raise ConfigError(
                    f"Sum counts {what} once, however: {first[what]!r} and {term!r} both do. Leave one out."
                )
        self.links = nn.ModuleList(self.terms)
        for term in self.terms:
            term.build(sizes)

    def forward(self, p: Pass) -> Tensor:
        return torch.stack([term(p).mean() for term in self.terms]).sum()


def _flat(term: Term) -> Sequence[Part]:
    return term.terms if isinstance(term, Sum) else [term]
