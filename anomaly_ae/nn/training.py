"""The only training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from anomaly_ae.nn.core import Batch, Clock, Part, total_kl
from anomaly_ae.nn.model import Net

SOLVE_ROWS = 8192  # closed-form parts see at most this many fit rows


@dataclass(frozen=True)
class Recipe:
    """How to train; the detector's constructor documents each value."""

    max_epochs: int
    steps_per_epoch: int | None
    batch_size: int
    learning_rate: float
    weight_decay: float
    clip_norm: float | None
    patience: int | None
    validate_rows: int = 4096
    schedule: bool = True  # False: the learning rate and every warm-up stand at their final value (partial_fit)


def train(
    net: Net,
    fit: Batch,
    validate: Batch | None,
    recipe: Recipe,
    on_epoch: Callable[[dict[str, float]], bool] | None = None,
    optimizer: AdamW | None = None,
) -> list[dict[str, float]]:
    """Minimise the net's loss over the rows `fit`; keep the weights of the epoch with the best `validate` loss.

    Both lie on the net's device already; batches are slices of them. `on_epoch` gets each epoch's record
    and ends training by returning True. `optimizer` is one of the same net to go on with. Returns the records.
    """
    batch_size = min(recipe.batch_size, len(fit))
    steps_per_epoch = recipe.steps_per_epoch or min(25, math.ceil(3 * len(fit) / batch_size))
    clock = Clock(steps=recipe.max_epochs * steps_per_epoch if recipe.schedule else 0, rows=len(fit))
    weights = list(net.parameters())
    optimizer = optimizer or AdamW(weights, recipe.weight_decay)
    hooked = [part for part in net.parts() if type(part).after_step is not Part.after_step]
    batches = _batches(fit, batch_size)
    width = fit.x[0].numel()  # the gradient is taken per column, so that clip_norm means the same for any table
    watched = None if validate is None else validate.take(slice(recipe.validate_rows))
    best_loss, best_state, best_epoch = math.inf, None, 0
    history: list[dict[str, float]] = []
    for epoch in range(recipe.max_epochs):
        started = time.perf_counter()
        net.train()
        sums: dict[str, Tensor] = {}
        for _ in range(steps_per_epoch):
            p = net(next(batches), clock)
            terms = {name: term.mean() for name, term in net.terms(p).items()}
            gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum() / width, weights)
            learning_rate = _cosine(recipe.learning_rate, clock)
            optimizer.step(_clipped(gradients, recipe.clip_norm), learning_rate)
            clock.step += 1
            with torch.no_grad():
                for part in hooked:
                    part.after_step(p)
                for name, term in terms.items():
                    sums[name] = sums.get(name, 0.0) + term.detach()
        record = {"epoch": epoch + 1, **{name: float(total) / steps_per_epoch for name, total in sums.items()}}
        record["loss"] = sum(value for name, value in record.items() if name != "epoch")
        if watched is not None:
            record |= _validate(net, watched)
        record["learning_rate"] = learning_rate
        record["seconds"] = time.perf_counter() - started
        history.append(record)
        judged = record.get("validate_loss", record["loss"])
        if judged < best_loss:
            best_loss, best_epoch = judged, epoch
            best_state = {k: v.clone() for k, v in net.state_dict().items()} if watched is not None else None
        stalled = recipe.patience is not None and epoch - best_epoch >= recipe.patience
        if (on_epoch is not None and on_epoch(record)) or stalled:
            break
    if best_state is not None:
        net.load_state_dict(best_state)
    net.eval()
    with torch.no_grad():
        p = net(fit.take(slice(SOLVE_ROWS)))
        for part in net.parts():
            part.solve(p)
    return history


def _batches(rows: Batch, size: int) -> Iterator[Batch]:
    """Endless batches of `size` rows; each pass takes a new order and leaves out what does not fill a batch."""
    while True:
        order = torch.randperm(len(rows), device=rows.x.device)
        for start in range(0, len(rows) - size + 1, size):
            yield rows.take(order[start : start + size])


class AdamW:
    """torch's fused AdamW by its functional form.

    `torch.optim.Optimizer` imports torch's compiler when the first one is made, 1.5 s that a fit from the shell would
    wait, and its hooks cost as much as a step of a narrow net.
    """

    def __init__(self, weights: Sequence[Tensor], weight_decay: float) -> None:
        self.weights = list(weights)
        self.weight_decay = weight_decay
        self.means = [torch.zeros_like(weight) for weight in weights]
        self.squares = [torch.zeros_like(weight) for weight in weights]
        self.steps = [torch.zeros((), device=weight.device) for weight in weights]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], learning_rate: float) -> None:
        adamw(
            self.weights,
            list(gradients),
            self.means,
            self.squares,
            [],
            self.steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate,
            weight_decay=self.weight_decay,
            eps=1e-8,
            maximize=False,
        )


def _clipped(gradients: Sequence[Tensor], largest: float | None) -> Sequence[Tensor]:
    """Gradients scaled down to a norm of `largest`, if theirs is larger."""
    if largest is None:
        return gradients
    norm = torch.nn.utils.get_total_norm(gradients)
    return torch._foreach_mul(list(gradients), (largest / (norm + 1e-6)).clamp(max=1.0))


def _cosine(peak: float, clock: Clock) -> float:
    """Learning rate: linear rise over the first 5 % of steps, then half a cosine down to 1 % of the peak."""
    if clock.steps == 0:
        return peak
    progress = (clock.step + 1) / clock.steps
    if progress < 0.05:
        return peak * progress / 0.05
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - 0.05) / 0.95)))


@torch.no_grad()
def _validate(net: Net, rows: Batch) -> dict[str, float]:
    # The same noise every epoch: epochs are compared with each other, not their draws. The clock stands at the end
    # of training, so that a warm-up does not make the first epochs look best.
    with seeded(0, rows.x.device):
        p = net.noisy()(rows)
        terms = {name: float(term.mean()) for name, term in net.terms(p).items()}
    record = {"validate_loss": sum(terms.values())}
    if any(level.q is not None for level in p.levels):
        record["validate_kl"] = float(total_kl(p).mean())
    return record


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Run with torch's random numbers seeded, then put its state back as it was."""
    generators = [torch.default_generator]
    if (device := torch.device(device)).type == "cuda":
        torch.cuda.init()
        generators.append(torch.cuda.default_generators[device.index or 0])
    states = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


@contextmanager
def threads(net: Net) -> Iterator[None]:
    """Run on one thread where the net is too narrow to gain from more, then put torch's count back as it was."""
    before = torch.get_num_threads()
    if max(parameter.shape[0] for parameter in net.parameters()) <= 256:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
