"""Trains the bundled model for a given time, from wherever the last run ended."""

from __future__ import annotations

import csv
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..samplers.chain import forward_sample, posterior_step, prior_sample
from .curve import draw_curve
from .loss import LossWeights, RestorationLoss
from .muon import Muon, split_parameters
from .network import (
    SCHEDULE,
    build_network,
    latent_of_lq,
    load_weights,
    predict,
    publish_weights,
    save_weights,
    to_latent,
)
from .pool import Pool
from .validation import Case, measure, restore_all, save_sheet, score

LOG_EVERY = 20


@dataclass(frozen=True)
class TrainSettings:
    """How the network is trained.

    Attributes:
        minutes: Length of the whole training, all runs together; the learning rate falls with it.
        matrix_rate: Highest learning rate of Muon, for the inner layers' weights.
        other_rate: Highest learning rate of AdamW, for all the rest.
        warmup_steps: Steps of linear growth to it.
        final_rate: Learning rates at the end over the highest.
        weight_decay: Weight decay.
        clip: Largest norm of the gradient.
        ema: Decay of the averaged weights once they have ramped up.
        shapes: Height and width of low-quality crops, crops a step, and how often they are drawn.
        chain_starts: Share of fresh crops that start a chain and stay in training until it ends;
            the others are seen once, at a random place of the forward process.
        loss: Weights of the loss.
        validate_every: Steps between validations.
        save_every_minutes: Minutes between saved states.
        seed: Seed of everything random.
    """

    minutes: float = 95.0
    matrix_rate: float = 3e-3
    other_rate: float = 1e-3
    warmup_steps: int = 30
    final_rate: float = 0.01
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    shapes: tuple[tuple[int, int, int, float], ...] = (
        (32, 32, 8, 0.65),
        (32, 64, 4, 0.2),
        (64, 64, 2, 0.1),
        (40, 56, 2, 0.05),
    )
    chain_starts: float = 0.25
    loss: LossWeights = field(default_factory=LossWeights)
    validate_every: int = 300
    save_every_minutes: float = 5.0
    seed: int = 0


@dataclass
class Batch:
    """Crops and the states of their chains; every tensor has the batch first."""

    lq: Tensor
    target: Tensor
    y: Tensor
    x: Tensor
    index: Tensor
    in_chain: Tensor

    def select(self, chosen: Tensor) -> Batch:
        """Return the rows that `chosen` names."""
        return Batch(**{name: value[chosen] for name, value in vars(self).items()})

    @staticmethod
    def join(parts: list[Batch]) -> Batch:
        """Return the rows of all parts."""
        return Batch(**{name: torch.cat([vars(p)[name] for p in parts]) for name in vars(parts[0])})


class Trainer:
    """Network, averaged weights, optimiser and clock of one training."""

    def __init__(self, settings: TrainSettings, pool: Pool, run_folder: Path):
        self.settings = settings
        self.pool = pool
        self.run_folder = run_folder
        torch.manual_seed(settings.seed)
        self.network = build_network()
        self.average = build_network().requires_grad_(False)
        self.average.load_state_dict(self.network.state_dict())
        matrices, rest = split_parameters(self.network)
        decay = settings.weight_decay
        adam = torch.optim.AdamW(rest, lr=0.0, betas=(0.9, 0.99), weight_decay=decay)
        self.optimizers = [
            (Muon(matrices, lr=0.0, weight_decay=decay), settings.matrix_rate),
            (adam, settings.other_rate),
        ]
        self.loss = RestorationLoss(settings.loss)
        self.eta = SCHEDULE.eta().float()
        self.waiting: dict[tuple[int, int], Batch] = {}
        self.step = 0
        self.seconds = 0.0
        self.best = -math.inf
        self.forward: nn.Module = self.network

    # State

    @property
    def state_path(self) -> Path:
        """Where the state of this training lies."""
        return self.run_folder / "state.pt"

    def save_state(self) -> None:
        """Write everything that `load_state` needs."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
        }
        partial = self.state_path.with_suffix(".part")
        torch.save(state, partial)
        partial.replace(self.state_path)

    def load_state(self) -> None:
        """Continue from the saved state."""
        state = torch.load(self.state_path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        for (optimizer, _), values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]

    def start_from(self, path: Path) -> None:
        """Start from the weights of an exported file, with a fresh optimiser."""
        self.network.load_state_dict(load_weights(path), strict=False)
        self.average.load_state_dict(self.network.state_dict())

    # Steps

    def draw_batch(self, generator: torch.Generator) -> Batch:
        """Return the chains that wait for this shape, filled up with fresh crops."""
        shapes = self.settings.shapes
        odds = torch.tensor([shape[3] for shape in shapes])
        height, width, count, _ = shapes[int(torch.multinomial(odds, 1, generator=generator))]
        waiting = self.waiting.pop((height, width), None)
        parts = [] if waiting is None else [waiting]
        fresh = count - (0 if waiting is None else len(waiting.index))
        if fresh:
            lq, teacher = self.pool.draw(fresh, height, width, generator)
            target, y = to_latent(teacher), latent_of_lq(lq)
            in_chain = torch.rand(fresh, generator=generator) < self.settings.chain_starts
            index = torch.randint(SCHEDULE.steps, (fresh,), generator=generator)
            index = torch.where(in_chain, SCHEDULE.steps - 1, index)
            noise = torch.randn(y.shape, generator=generator)
            eta = self.eta[index].view(-1, 1, 1, 1)
            x = torch.where(
                in_chain.view(-1, 1, 1, 1),
                prior_sample(y, noise, eta, SCHEDULE.kappa),
                forward_sample(target, y, noise, eta, SCHEDULE.kappa),
            )
            parts.append(Batch(lq, target, y, x, index, in_chain))
        batch = Batch.join(parts)
        # Some parts of the loss see the first crops only.
        return batch.select(torch.randperm(count, generator=generator))

    def train_step(self) -> dict[str, float]:
        """Train on one batch; return the parts of the loss."""
        generator = torch.Generator().manual_seed(self.settings.seed * 10_000_019 + self.step)
        for optimizer, rate in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * self.rate_share()
        batch = self.draw_batch(generator)
        with torch.autocast("cpu", torch.bfloat16):
            x_0 = predict(self.forward, batch.x, batch.y, batch.lq, batch.index, self.eta)
            loss, parts = self.loss(x_0, batch.target, batch.y)
        self.network.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        if torch.isfinite(norm):
            for optimizer, _ in self.optimizers:
                optimizer.step()
        self._continue_chains(batch, x_0.detach().float(), generator)
        self.step += 1
        self._update_average()
        return parts | {"norm": norm.item()}

    def _continue_chains(self, batch: Batch, x_0: Tensor, generator: torch.Generator) -> None:
        goes_on = batch.in_chain & (batch.index > 0)
        if not goes_on.any():
            return
        rest, x_0 = batch.select(goes_on), x_0[goes_on]
        eta, eta_prev = (self.eta[rest.index - k].view(-1, 1, 1, 1) for k in (0, 1))
        noise = torch.randn(x_0.shape, generator=generator)
        rest.x = posterior_step(rest.x, x_0, noise, eta, eta_prev, SCHEDULE.kappa)
        rest.index = rest.index - 1
        self.waiting[tuple(batch.lq.shape[2:])] = rest

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        averaged, current = list(self.average.parameters()), list(self.network.parameters())
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def rate_share(self) -> float:
        """Return the share of the highest learning rates: linear growth, then a cosine over time."""
        progress = min(1.0, self.seconds / (60 * self.settings.minutes))
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        decayed = self.settings.final_rate + (1 - self.settings.final_rate) * cosine
        warmup = min(1.0, (self.step + 1) / self.settings.warmup_steps)
        return warmup * decayed

    # The run

    def run(self, cases: list[Case], export: Path, notes: dict[str, str]) -> None:
        """Train until the time is up, validating, saving and exporting the best on the way."""
        last = saved = time.monotonic()
        recent: list[dict[str, float]] = []
        while self.seconds < 60 * self.settings.minutes:
            recent.append(self.train_step())
            now = time.monotonic()
            self.seconds += now - last
            took, last = now - last, now
            if self.step % LOG_EVERY == 0:
                means = {name: sum(p[name] for p in recent) / len(recent) for name in recent[0]}
                recent.clear()
                row = {"step": self.step, "minutes": self.seconds / 60, **means}
                append_row(self.run_folder / "losses.csv", row)
                values = " ".join(f"{name} {value:.4f}" for name, value in means.items())
                print(
                    f"step {self.step} {self.seconds / 60:.1f} min {took:.2f} s "
                    f"rate {self.rate_share():.3f} {values}",
                    flush=True,
                )
            if self.step % self.settings.validate_every == 0 or self.step == 100:
                self.validate(cases, export, notes)
                self.pool.refresh()
            if now - saved > 60 * self.settings.save_every_minutes:
                self.save_state()
                saved = now
        self.validate(cases, export, notes)
        self.save_state()
        draw_curve(self.run_folder, self.run_folder / "curve.png")

    def validate(self, cases: list[Case], export: Path, notes: dict[str, str]) -> None:
        """Log the figures of the averaged weights and export them if they are the best so far."""
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            restored = restore_all(self.average, cases)
        figures = measure(cases, restored, self.loss.feature_distance)
        figures = {"step": self.step, "minutes": self.seconds / 60, **figures}
        figures["score"] = score(figures)
        append_row(self.run_folder / "validation.csv", figures)
        print("validation " + " ".join(f"{k} {v:.4g}" for k, v in figures.items()), flush=True)
        save_sheet(self.run_folder / "validation.png", cases, restored)
        best_path = self.run_folder / "best.safetensors"
        if figures["score"] > self.best:
            self.best = figures["score"]
            summary = (
                f"{self.step} steps in {self.seconds / 60:.0f} minutes on "
                f"{len(self.pool)} tiles; {asdict(self.settings)}"
            )
            notes = {**notes, "training": summary, "score": f"{self.best:.4f}"}
            save_weights(best_path, self.average.state_dict(), notes)
        publish_weights(best_path, export)


def append_row(path: Path, row: dict[str, float]) -> None:
    """Add `row` to a CSV file, with a header if the file is new."""
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, list(row))
        if is_new:
            writer.writeheader()
        writer.writerow({name: f"{value:.5g}" for name, value in row.items()})
