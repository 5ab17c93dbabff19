"""The only training loop."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from threading import RLock

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from anomaly_ae.nn.core import Batch, Clock
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.stack import Stack
from anomaly_ae.overlap import one_thread

SOLVE_ROWS = 8192  # closed-form parts see at most this many fit rows
_seeding = RLock()  # torch has one state of random numbers for all threads


def _seed_anew() -> None:
    global _seeding
    _seeding = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_seed_anew)  # the thread that held it is not in a child


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
    least_steps: int = 1  # an epoch, where nothing says how many
    validate_rows: int = 4096
    schedule: bool = True  # False: the learning rate and every warm-up stand at their final value (partial_fit)


def train(
    stack: Stack,
    fit: Batch,
    validate: Batch | None,
    recipe: Recipe,
    on_epoch: Callable[[dict[str, float]], bool] | None = None,
    optimizer: AdamW | None = None,
    known: Batch | None = None,
) -> list[dict[str, float]]:
    """Minimise the loss of each net over the rows `fit`; keep each one's weights of its best epoch by `validate` loss.

    All lie on the nets' device already; batches are slices of them. `on_epoch` gets each epoch's record, means over
    nets, and ends training by returning True. `optimizer` is one of the same stack to go on with. What is in closed
    form is solved for `known`, by default the rows `fit`, unless these are none; where nothing is left to be trained by
    steps, that is the one epoch. Returns the records.
    """
    known = fit if known is None else known
    watched = None if validate is None else validate.some(recipe.validate_rows)
    if stack.weights:
        _hooked(stack, "start", known)
        optimizer = optimizer or AdamW(stack.weights, recipe.weight_decay)
        history = _steps(stack, fit, watched, recipe, on_epoch, optimizer)
        _hooked(stack, "solve", known)
        return history
    started = time.perf_counter()
    _hooked(stack, "solve", known)
    loss = float(_validate(stack, fit.some(recipe.validate_rows))[0].mean())
    seen = {} if watched is None else _validate(stack, watched)[1]
    record = {"epoch": 1, "reconstruction": loss, "loss": loss, **seen, "learning_rate": 0.0}
    record["seconds"] = time.perf_counter() - started
    if on_epoch is not None:
        on_epoch(record)
    return [record]


@torch.no_grad()
def _hooked(stack: Stack, hook: str, rows: Batch) -> None:
    """Call a hook of parts, of those that have it, with passes over some rows."""
    for net in stack.nets:
        parts = [part for part in net.parts() if part.has(hook)]
        if parts and len(rows):
            p = net.eval()(rows.some(SOLVE_ROWS))
            for part in parts:
                getattr(part, hook)(p)
    stack.gather()


def _steps(
    stack: Stack,
    fit: Batch,
    watched: Batch | None,
    recipe: Recipe,
    on_epoch: Callable[[dict[str, float]], bool] | None,
    optimizer: AdamW,
) -> list[dict[str, float]]:
    """Epochs of steps down the loss, at most `recipe.max_epochs`; returns their records."""
    batch_size = min(recipe.batch_size, len(fit))
    steps_per_epoch = recipe.steps_per_epoch or min(25, max(recipe.least_steps, math.ceil(3 * len(fit) / batch_size)))
    clock = Clock(steps=recipe.max_epochs * steps_per_epoch if recipe.schedule else 0)
    weights = stack.weights
    batches = [_batches(fit, batch_size) for _ in stack.nets]
    width = fit.x[0].numel()  # the gradient is taken per column, so that clip_norm means the same for any table
    best_loss = torch.full((len(stack.nets),), math.inf)
    best_epoch = torch.zeros(len(stack.nets))
    best_state: dict[str, Tensor] | None = None
    history: list[dict[str, float]] = []
    for epoch in range(recipe.max_epochs):
        started = time.perf_counter()
        sums: dict[str, Tensor] = {}
        for _ in range(steps_per_epoch):
            terms = stack([next(rows) for rows in batches], clock)
            loss = torch.stack(list(terms.values())).sum() / width
            gradients = torch.autograd.grad(loss, weights, materialize_grads=True)  # not every term asks every weight
            learning_rate = _cosine(recipe.learning_rate, clock)
            optimizer.step(_clipped(gradients, recipe.clip_norm, len(stack.nets)), learning_rate)
            clock.step += 1
            with torch.no_grad():
                for name, term in terms.items():
                    sums[name] = sums.get(name, 0.0) + term.detach()
        means = {name: total.cpu() / steps_per_epoch for name, total in sums.items()}
        judged = torch.stack(list(means.values())).sum(0)
        record = {name: float(term.mean()) for name, term in means.items()} | {"loss": float(judged.mean())}
        if watched is not None:
            judged, seen = _validate(stack, watched)
            record |= seen
        record = {
            "epoch": epoch + 1,
            **record,
            "learning_rate": learning_rate,
            "seconds": time.perf_counter() - started,
        }
        history.append(record)
        # a net that has stalled is done, however well it would do later: it is as if it had trained alone
        stalled = epoch - best_epoch > (math.inf if recipe.patience is None else recipe.patience)
        better = (judged < best_loss) & ~stalled
        if better.any() and watched is not None:
            best_state = _chosen(better, stack.state(), best_state)
        best_loss, best_epoch = torch.where(better, judged, best_loss), torch.where(better, float(epoch), best_epoch)
        done = recipe.patience is not None and bool((epoch - best_epoch >= recipe.patience).all())
        if (on_epoch is not None and on_epoch(record)) or done:
            break
    stack.settle(best_state)
    return history


def _chosen(better: Tensor, state: dict[str, Tensor], old: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Of each net the new state where it is better, else the old one."""
    if old is None:
        return state
    device = next(iter(state.values())).device
    mask = better.to(device)
    return {name: torch.where(mask.view(-1, *[1] * (new.dim() - 1)), new, old[name]) for name, new in state.items()}


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
            [gradient.contiguous() for gradient in gradients],  # the fused step reads them as they lie in memory
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


def _clipped(gradients: Sequence[Tensor], largest: float | None, nets: int) -> Sequence[Tensor]:
    """Gradients scaled down to a norm of `largest`, if theirs is larger; of several nets each one's by its own."""
    if largest is None:
        return gradients
    if nets == 1:
        norm = torch.nn.utils.get_total_norm(gradients)
        return torch._foreach_mul(list(gradients), (largest / (norm + 1e-6)).clamp(max=1.0))
    norm = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0).sqrt()
    scale = (largest / (norm + 1e-6)).clamp(max=1.0)
    return [gradient * scale.view(-1, *[1] * (gradient.dim() - 1)) for gradient in gradients]


def _cosine(peak: float, clock: Clock) -> float:
    """Learning rate: linear rise over the first 5 % of steps, then half a cosine down to 1 % of the peak."""
    if clock.steps == 0:
        return peak
    progress = (clock.step + 1) / clock.steps
    if progress < 0.05:
        return peak * progress / 0.05
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - 0.05) / 0.95)))


@torch.no_grad()
def _validate(stack: Stack, rows: Batch) -> tuple[Tensor, dict[str, float]]:
    """The loss of each net on validate rows, `(nets,)`, and the means over nets for the record."""
    # The same noise every epoch: epochs are compared with each other, not their draws. The clock stands at the end
    # of training, so that a warm-up does not make the first epochs look best.
    with seeded(0, rows.x.device):
        terms = stack([rows] * len(stack.nets), Clock(), watching=True)
    kl = terms.pop("kl", None)
    loss = torch.stack(list(terms.values())).sum(0).cpu()
    return loss, {"validate_loss": float(loss.mean())} | ({} if kl is None else {"validate_kl": float(kl.mean())})


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Run with torch's random numbers seeded, then put their state back as it was; one thread at a time."""
    generators = [torch.default_generator]
    if (device := torch.device(device)).type == "cuda":
        torch.cuda.init()
        generators.append(torch.cuda.default_generators[device.index or 0])
    with _seeding:
        states = [generator.get_state() for generator in generators]
        for generator in generators:
            generator.manual_seed(seed)
        try:
            yield
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


def threads(net: Net) -> AbstractContextManager[None]:
    """One thread for torch where the net is too narrow to gain from more."""
    return one_thread(max((len(weight) for weight in net.parameters() if weight.dim()), default=1) <= 256)
