"""Several nets of one make, trained side by side: their weights stacked, their losses computed at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from anomaly_ae.nn.core import Batch, Clock, total_kl
from anomaly_ae.nn.model import Net


class Stack:
    """Nets as the training loop sees them: weights to move, and terms of the loss for each, `(nets,)`.

    One net is called as it is. More are called once, by `torch.vmap` over their stacked weights: small nets leave most
    of a processor waiting for the next call.
    """

    def __init__(self, nets: Sequence[Net]) -> None:
        self.nets = nets
        self._terms = _Terms(nets[0])
        self._weights: dict[str, Tensor] = {}
        self._buffers: dict[str, Tensor] = {}
        if len(nets) > 1:
            self._weights, self._buffers = stack_module_state([_Terms(net) for net in nets])

    @property
    def weights(self) -> list[Tensor]:
        """What is learned by steps: of one net its parameters, of more their stacks `(nets, ...)`."""
        return [weight for weight in self._weights.values() or self.nets[0].parameters() if weight.requires_grad]

    def __call__(self, batches: Sequence[Batch], clock: Clock, watching: bool = False) -> dict[str, Tensor]:
        """The terms of the loss of each net on a batch of its own, means over rows: `(nets,)` each.

        `watching` asks for what validate rows cost: layers as in scoring, the codes' KL divergence named beside.
        """
        if watching or not self.nets[0].training:
            for net in self.nets:
                net.noisy() if watching else net.train()
        if len(self.nets) == 1:
            return {name: term[None] for name, term in self._terms(batches[0], clock, watching).items()}
        cells = {field.name: [getattr(batch, field.name) for batch in batches] for field in fields(Batch)}
        stacked = {name: torch.stack(values) for name, values in cells.items() if values[0] is not None}
        return torch.vmap(self._one, randomness="different")(
            self._weights, self._buffers, stacked, clock=clock, watching=watching
        )

    def _one(
        self,
        weights: dict[str, Tensor],
        buffers: dict[str, Tensor],
        cells: dict[str, Tensor],
        clock: Clock,
        watching: bool,
    ) -> dict[str, Tensor]:
        return functional_call(self._terms, (weights, buffers), (Batch(**cells), clock, watching))

    @torch.no_grad()
    def gather(self) -> None:
        """Take what the nets have become by themselves."""
        own = [_tensors(_Terms(net)) for net in self.nets] if self._weights else []
        for name, tensor in (self._weights | self._buffers).items():
            tensor.copy_(torch.stack([tensors[name] for tensors in own]))

    @torch.no_grad()
    def state(self) -> dict[str, Tensor]:
        """A copy of everything that training changes, `(nets, ...)` each."""
        if len(self.nets) == 1:
            return {name: tensor.clone()[None] for name, tensor in _tensors(self._terms).items()}
        return {name: tensor.clone() for name, tensor in (self._weights | self._buffers).items()}

    @torch.no_grad()
    def settle(self, state: dict[str, Tensor] | None) -> None:
        """Go back to `state`, or stay; then let each net have its own."""
        now = self._weights | self._buffers
        for name, tensor in (state or {}).items():
            if name in now:
                now[name].copy_(tensor)
        for i, net in enumerate(self.nets):
            own = _tensors(_Terms(net))
            for name, tensor in (state or now).items():
                own[name].copy_(tensor[i])


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


class _Terms(nn.Module):
    """A net as the terms of its loss."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net
        self.hooked = [part for part in net.parts() if part.has("after_step")]

    def forward(self, batch: Batch, clock: Clock, watching: bool) -> dict[str, Tensor]:
        p = self.net(batch, clock)
        terms = {name: term.mean() for name, term in self.net.terms(p).items()}
        if not watching:
            with torch.no_grad():
                for part in self.hooked:
                    part.after_step(p)
        elif any(level.q is not None for level in p.levels):
            terms["kl"] = total_kl(p).mean()
        return terms
