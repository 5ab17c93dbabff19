"""The only forward pass, and the one loss. This file names no part."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from anomaly_ae.nn.core import (
    Batch,
    Clock,
    Level,
    Part,
    Pass,
    Sizes,
    check_compatible,
    codes,
    present,
    row_sum,
    total_kl,
)


class Net(nn.Module):
    r"""A model as the sum of its parts.

    .. math:: \text{loss}(x) = -\log p(x|z) + \text{divergence} + \text{penalty}

    in nats a row, where :math:`z` is what the latent makes of the encoder's features of the (in training,
    corrupted) row.

    Parameters
    ----------
    backbone, latent, likelihood : Part
        Always there.
    prior, divergence, corruption, penalty : Part or None
        `None` where the model has no such part.
    """

    AXES = ("backbone", "latent", "prior", "divergence", "likelihood", "corruption", "penalty")

    backbone: Any
    latent: Any
    prior: Any
    divergence: Any
    likelihood: Any
    corruption: Any
    penalty: Any
    encoder: Any
    decoder: Any
    tells: bool

    def __init__(self, **parts: Part | None) -> None:
        super().__init__()
        check_compatible(parts)
        for axis in self.AXES:
            setattr(self, axis, parts.get(axis))

    def build(
        self,
        shape: tuple[int, ...],
        condition: int = 0,
        groups: tuple[tuple[str, int], ...] = (),
        context: int = 0,
    ) -> Net:
        """Make all tensors for rows of `shape`, whose columns or channels are of the kinds that `groups` says."""
        sizes = Sizes(shape, condition, context=context, groups=groups)
        self.encoder = self.backbone.encoder(sizes)
        sizes = replace(sizes, features=self.encoder.features, steps=self.encoder.steps)
        for part in self.parts():
            part.build(sizes)
            if part is self.latent:
                # of a hierarchy it is the top that faces the prior
                self.sizes = sizes = replace(sizes, code=getattr(part, "faced", part.width))
        # a condition that codes bring along is not told a second time
        self.tells = "contexts" not in getattr(self.prior, "offers", ())
        told = sizes if self.tells else replace(sizes, condition=0)
        self.decoder = self.backbone.decoder(self.latent.width, self.likelihood.n_params, told)
        for part in self.parts():
            for piece in part.pieces():
                piece.join(self)
        return self

    @torch.no_grad()
    def rehearse(self) -> None:
        """One pass over two rows of zeros, and its loss; raises what parts raise that are on an axis of others."""
        p = self.noisy()(self._like_rows(torch.zeros(2)))
        with contextlib.suppress(ValueError):  # zeros may lie beyond what the likelihood takes
            self.terms(p)

    @torch.no_grad()
    def may_copy(self) -> bool:
        """Whether nothing keeps it from rebuilding any row at all: no noise, no penalty, no narrower layer."""
        batch = self._like_rows(torch.arange(256.0))
        qualities = self.backbone.offers | self.latent.offers
        if not {"trained encoder", "code without noise"} <= qualities:
            return False
        paid = self.penalty is not None or self.divergence is not None
        noisy = self.corruption is not None and not torch.equal(self.corruption(batch).x, batch.x)
        costly = any(isinstance(level.cost, Tensor) for level in self.encode(batch)[1])
        dropped = any(isinstance(layer, nn.Dropout) for layer in self.modules())
        widths = [self.latent.width, *(len(weight) for weight in self.parameters() if weight.dim() > 1)]
        return not (paid or noisy or costly or dropped) and min(widths) >= prod(self.sizes.shape)

    def _like_rows(self, values: Tensor) -> Batch:
        """Rows `(n, ...)` of which each holds one value `(n,)` everywhere, and nothing else is known."""
        shape, time = self.sizes.shape, self.sizes.shape[1:]
        x = values.to(next(self.parameters())).view(-1, *[1] * len(shape)).expand(-1, *shape).contiguous()
        return Batch(x, None, x.new_zeros(len(x), self.sizes.condition, *time) if self.sizes.condition else None)

    def parts(self) -> list[Any]:
        """The parts that are there, in the order of `AXES`."""
        return [part for axis in self.AXES if (part := getattr(self, axis)) is not None]

    def seen(self, batch: Batch) -> Batch:
        """The batch as corruption leaves it, in training."""
        seen: Batch = batch if self.corruption is None or not self.corruption.training else self.corruption(batch)
        return seen

    def encode(self, batch: Batch) -> tuple[Tensor, tuple[Level, ...]]:
        """Features and levels of codes of rows as they are."""
        h = self.encoder(batch.x, batch.condition)
        return h, self.latent(h, self.prior, batch)

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """The likelihood that a code stands for."""
        return self.likelihood(self.decoder(z, condition if self.tells else None))

    def prior_given(self, condition: Tensor | None) -> Any:
        """The prior of rows of this condition, which may be the same whatever it is."""
        given = getattr(self.prior, "given", None)
        return self.prior if given is None else given(condition)

    def forward(self, batch: Batch, clock: Clock | None = None) -> Pass:
        seen = self.seen(batch)
        h, levels = self.encode(seen)
        px = self.decode(codes(levels), batch.condition)
        return Pass(batch, seen, h, levels, px, self, clock or Clock())

    def terms(self, p: Pass) -> dict[str, Tensor]:
        """The terms of the loss, each `(n,)` or a scalar, in nats; cells that are not present cost nothing."""
        terms = {"reconstruction": self.reconstruction(p)}
        for axis in ("divergence", "penalty"):
            if (term := getattr(self, axis)) is not None:
                terms[axis] = term(p)
        cost = sum(level.cost for level in p.levels)
        if isinstance(cost, Tensor):
            terms["latent_cost"] = cost
        return terms

    def reconstruction(self, p: Pass) -> Tensor:
        """-log p(x|z) of the cells that are present, in nats: `(n,)`."""
        return -row_sum(present(p, p.px.log_prob(p.batch.x)))

    def log_likelihood(self, p: Pass) -> Tensor:
        """log p(x|z) less the codes' KL divergence, in nats: `(n,)`."""
        return -self.reconstruction(p) - total_kl(p)

    def noisy(self) -> Net:
        """Layers as in scoring, corruption and codes as in training: the state in which validate rows are judged."""
        self.eval()
        self.latent.training = True
        if self.corruption is not None:
            self.corruption.training = True
        return self
