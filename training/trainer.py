"""Trains a part of the bundled model for a given time, from wherever the last run ended."""

from __future__ import annotations

import csv
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from ..model_loaders.networks.swin_unet import SwinUNetConfig
from ..samplers.chain import forward_sample, posterior_step, prior_sample
from .discriminator import FeatureDiscriminator, doubt
from .features import FeatureDistance
from .loss import PHASES, Comparison, Goal, LossShares, RestorationLoss
from .muon import Muon, split_parameters
from .network import (
    CONFIG,
    SCHEDULE,
    build_network,
    from_latent,
    latent_of_lq,
    predict,
    restore,
    to_latent,
)
from .pool import Pool
from .precision import mixed_precision

LOG_EVERY = 50
OTHER_STATE = (
    "{} goes on with another {} than was asked for. Give the --start or --resume-from of that run's"
    " first call, or another --run."
)
# Noise scales that the network is shown; it learns to invent the less the smaller they are.
KAPPAS = (0.25, 4.0)


@dataclass(frozen=True)
class TrainSettings:
    """How the network is trained.

    Attributes:
        minutes: Length of the whole training, all runs together; the learning rate falls with it.
        matrix_rate: Highest learning rate of Muon, for the inner layers' weights.
        other_rate: Highest learning rate of AdamW, for all the rest.
        discriminator_rate: Highest learning rate of the discriminator's AdamW.
        warmup_steps: Steps of linear growth to them.
        final_rate: Learning rates at the end over the highest.
        weight_decay: Weight decay.
        clip: Largest norm of the gradient.
        ema: Decay of the averaged weights once they have ramped up.
        shapes: Height and width of low-quality crops, crops a step, and how often they are drawn.
        prior_share: Share of fresh crops that stand at the start of a chain, as in one step.
        kappa_share: Share of those with another noise scale than the published one.
        chain_share: Share of a batch that goes on from the step before.
        teacher_share: Share of the teacher's picture, where it is trusted, in what a pixel is to be;
            the rest is the photograph's.
        pooled: Side of the squares whose mean colours are to be right; see `absolute_difference`.
        quiet_steps: Steps before the discriminator is listened to.
        ramp_steps: Steps in which it comes to be listened to fully.
        shares: Sizes of the parts of the loss.
        seed: Seed of everything random.
    """

    minutes: float = 95.0
    matrix_rate: float = 1.5e-3
    other_rate: float = 5e-4
    discriminator_rate: float = 1e-3
    warmup_steps: int = 50
    final_rate: float = 0.01
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.998
    shapes: tuple[tuple[int, int, int, float], ...] = ((64, 64, 64, 0.85), (96, 96, 28, 0.15))
    prior_share: float = 0.75
    kappa_share: float = 0.4
    chain_share: float = 0.125
    teacher_share: float = 0.0
    pooled: int = 1
    quiet_steps: int = 150
    ramp_steps: int = 350
    shares: LossShares = field(default_factory=LossShares)
    seed: int = 0


CPU_SHAPES = ((32, 32, 8, 0.5), (48, 48, 4, 0.3), (64, 64, 2, 0.2))


@dataclass
class Batch:
    """Crops and the states of their chains; every tensor has the batch first.

    `index` and `kappa` stay on the CPU, so that nothing waits for the device to read them.

    Attributes:
        lq: `(B, 3, h, w)` in [0, 1].
        photograph: `(B, 3, 4 h, 4 w)` in [0, 1].
        teacher: Like `photograph`.
        trust: `(B,)` 1 where the teacher's picture is to be trusted.
        y: `(B, 48, h, w)` latents of the start's pictures.
        x: Like `y`, the states.
        index: `(B,)` int64 diffusion indices.
        kappa: `(B, 1, 1, 1)` noise scales.
    """

    lq: Tensor
    photograph: Tensor
    teacher: Tensor
    trust: Tensor
    y: Tensor
    x: Tensor
    index: Tensor
    kappa: Tensor

    def select(self, chosen: Tensor) -> Batch:
        """Return the rows that `chosen` names."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Batch(**{name: value[chosen.to(value.device)] for name, value in values.items()})

    @staticmethod
    def join(parts: list[Batch]) -> Batch:
        """Return the rows of all parts."""
        joined = {f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Batch)}
        return Batch(**joined)


class Training(ABC):
    """Network, averaged weights, discriminator, optimisers and clock of one training.

    Args:
        settings: How it is trained.
        pool: Draws the crops.
        build: Makes the network with its first weights.
        features: Feature distance.
        device: Where everything is computed.
    """

    def __init__(
        self,
        settings: TrainSettings,
        pool: Pool,
        build: Callable[[], nn.Module],
        features: FeatureDistance,
        device: torch.device,
    ):
        self.settings = settings
        self.pool = pool
        self.device = device
        torch.manual_seed(settings.seed)
        self.made = {"device": device, "memory_format": torch.channels_last}
        if device.type == "cpu":
            self.made = {"device": device}
        self.network = build().to(**self.made).train()
        self.average = build().to(**self.made).requires_grad_(False).eval()
        self.average.load_state_dict(self.network.state_dict())
        self.discriminator = FeatureDiscriminator().to(**self.made)
        matrices, rest = split_parameters(self.network)
        decay = settings.weight_decay
        adam = torch.optim.AdamW(rest, lr=0.0, betas=(0.9, 0.99), weight_decay=decay)
        self.optimizers: list[tuple[torch.optim.Optimizer, float]] = [
            (Muon(matrices, lr=0.0, weight_decay=decay), settings.matrix_rate),
            (adam, settings.other_rate),
        ]
        judging = torch.optim.AdamW(
            self.discriminator.parameters(), lr=0.0, betas=(0.0, 0.99), weight_decay=0.0
        )
        self.judging = (judging, settings.discriminator_rate)
        self.loss = RestorationLoss(settings.shares, settings.pooled)
        self.features = features
        self.step = 0
        self.seconds = 0.0
        self.forward: nn.Module = self.network

    @abstractmethod
    def restore_crops(self, generator: torch.Generator) -> tuple[Tensor, Goal]:
        """Return a batch restored by the network, and what it is compared with."""

    @abstractmethod
    def restore_picture(self, lq: Tensor, generator: torch.Generator) -> Tensor:
        """Return `lq` (B, 3, h, w) in [0, 1] restored with the averaged weights, in [0, 1]."""

    # State

    def state(self) -> dict:
        """Return everything that `load_state` needs."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimizers": [each.state_dict() for each, _ in [*self.optimizers, self.judging]],
            "norms": self.loss.norms,
            "step": self.step,
            "seconds": self.seconds,
        }

    def save_state(self, path: Path) -> None:
        """Write `state`."""
        partial = path.with_suffix(".part")
        torch.save(self.state(), partial)
        partial.replace(path)

    def load_state(self, path: Path) -> None:
        """Continue from a saved state.

        Raises:
            ValueError: If it is of another network.
        """
        state = torch.load(path, weights_only=True, map_location=self.device)
        self.check_state(path, state)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.discriminator.load_state_dict(state["discriminator"])
        optimizers = [each for each, _ in [*self.optimizers, self.judging]]
        for optimizer, values in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.loss.norms = state["norms"]
        self.step, self.seconds = state["step"], state["seconds"]

    def check_state(self, path: Path, state: dict) -> None:
        """Raise ValueError if a state is of another network or discriminator."""
        for part, network in (
            ("network", self.network),
            ("discriminator", self.discriminator),
        ):
            shapes, known = (
                {name: weight.shape for name, weight in weights.items()}
                for weights in (state[part], network.state_dict())
            )
            if shapes != known:
                raise ValueError(OTHER_STATE.format(path, part))

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Start from the weights of an exported file, with fresh optimisers."""
        self.network.load_state_dict(weights)
        self.average.load_state_dict(weights)

    # Steps

    def train_step(self) -> dict[str, Tensor]:
        """Train on one batch; return the parts of the loss."""
        settings = self.settings
        generator = torch.Generator().manual_seed(settings.seed * 10_000_019 + self.step)
        for optimizer, rate in [*self.optimizers, self.judging]:
            for group in optimizer.param_groups:
                group["lr"] = rate * self.rate_share()
        image, goal = self.restore_crops(generator)
        shift = torch.randint(PHASES, (2,), generator=generator).tolist()
        comparison = Comparison(self.features, image, goal, (shift[0], shift[1]))
        parts = {}
        if settings.shares.adversarial:
            parts = self._judge(comparison)
        self.discriminator.requires_grad_(False).eval()
        gradient, values = self.loss.gradient(
            comparison, self.discriminator, adversarial=self.adversarial_share()
        )
        self.discriminator.requires_grad_(True).train()
        self.network.zero_grad(set_to_none=True)
        image.backward(gradient)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        for optimizer, _ in self.optimizers:
            optimizer.step()
        self.step += 1
        self._update_average()
        return {**values, **parts, "norm": norm}

    def _judge(self, comparison: Comparison) -> dict[str, Tensor]:
        """Train the discriminator on one batch, as pairs of what is real and what was made."""
        optimizer, _ = self.judging
        pairs = zip(comparison.of_real, comparison.of_image, strict=True)
        taps = [torch.cat([real, made.detach()]) for real, made in pairs]  # (2 B, ...)
        with mixed_precision(self.device):
            scores = [score.chunk(2) for score in self.discriminator(taps)]
        of_real, of_made = zip(*scores, strict=True)
        judged = (comparison.goal.detail.clamp(max=1) * doubt(of_real, of_made)).mean()
        self.discriminator.zero_grad(set_to_none=True)
        judged.backward()
        optimizer.step()
        return {"judged": judged.detach()}

    def draw_shape(self, generator: torch.Generator) -> tuple[int, int, int]:
        """Return height and width of a batch's low-quality crops, and how many there are."""
        shapes = self.settings.shapes
        odds = torch.tensor([shape[3] for shape in shapes])
        height, width, count, _ = shapes[int(torch.multinomial(odds, 1, generator=generator))]
        return height, width, count

    def goal(
        self, photograph: Tensor, teacher: Tensor, trust: Tensor, detail: Tensor, base: Tensor
    ) -> Goal:
        """Return what crops are compared with; arguments are those of `Goal`."""
        aim = self.aim(photograph, teacher, trust)
        return Goal(aim, photograph, teacher, trust, detail, base)

    def aim(self, photograph: Tensor, teacher: Tensor, trust: Tensor) -> Tensor:
        """Return what crops are to be, pixel by pixel; arguments are those of `Goal`."""
        share = self.settings.teacher_share * trust.view(-1, 1, 1, 1)
        return torch.lerp(photograph, teacher, share)

    def adversarial_share(self) -> float:
        """Return the share of the discriminator's full weight at this step."""
        return min(1.0, max(0, self.step - self.settings.quiet_steps) / self.settings.ramp_steps)

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

    def run(self, losses: Path, export_minutes: float, export: Callable[[], None]) -> None:
        """Train until the time is up.

        Args:
            losses: CSV file of the parts of the loss.
            export_minutes: Minutes between calls of `export`, which is also called at the end.
            export: Keeps the averaged weights and the state, and may judge them.
        """
        last = exported = time.monotonic()
        recent: list[dict[str, Tensor]] = []
        while self.seconds < 60 * self.settings.minutes:
            recent.append(self.train_step())
            if self.step % LOG_EVERY == 0:
                means = {
                    name: torch.stack([p[name] for p in recent if name in p]).mean().item()
                    for name in recent[-1]
                }
                recent.clear()
                row = {"step": self.step, "minutes": self.seconds / 60, **means}
                row["tiles"] = len(self.pool)
                append_row(losses, row)
                values = " ".join(f"{name} {value:.4f}" for name, value in means.items())
                print(f"{self.step} {self.seconds / 60:.2f} min {values}", flush=True)
                self.pool.refresh(most=2, seconds=1.0)
            now = time.monotonic()
            self.seconds += now - last
            last = now
            if now - exported > 60 * export_minutes:
                export()
                exported = time.monotonic()
        export()

    def summary(self) -> str:
        """Return in one line how the averaged weights were trained."""
        return (
            f"{self.step} steps in {self.seconds / 60:.1f} minutes on {self.device.type},"
            f" {len(self.pool)} tiles; {asdict(self.settings)}"
        )


class Trainer(Training):
    """The training of the Swin-UNet, on the states of chains.

    Args:
        settings: How it is trained.
        pool: Draws the crops.
        start: Frozen network whose pictures the chains start around.
        features: Feature distance.
        device: Where everything is computed.
        config: Shape of the Swin-UNet.
    """

    def __init__(
        self,
        settings: TrainSettings,
        pool: Pool,
        start: nn.Module,
        features: FeatureDistance,
        device: torch.device,
        config: SwinUNetConfig = CONFIG,
    ):
        super().__init__(settings, pool, lambda: build_network(config), features, device)
        self.start = start.to(**self.made).eval().requires_grad_(False)
        self.eta = SCHEDULE.eta().float()
        self.waiting: dict[tuple[int, int], tuple[Batch, Tensor]] = {}

    def state(self) -> dict:
        """Return everything that `load_state` needs, and the start, without which it is nothing."""
        return {**super().state(), "start": self.start.state_dict()}

    def save_state(self, path: Path) -> None:
        """Write `state`, and let go of the chains on their way, which a later run will not have."""
        self.waiting.clear()
        super().save_state(path)

    def check_state(self, path: Path, state: dict) -> None:
        """Raise ValueError if a state is of another network, or goes with another start."""
        super().check_state(path, state)
        start = state.get("start", {})
        known = self.start.state_dict()
        if start.keys() != known.keys() or any(
            not torch.equal(start[name], weight) for name, weight in known.items()
        ):
            raise ValueError(OTHER_STATE.format(path, "start"))

    def restore_crops(self, generator: torch.Generator) -> tuple[Tensor, Goal]:
        """Return one step of a batch's chains, and what it is compared with."""
        batch = self.draw_batch(generator)
        eta, kappa, index = (
            tensor.to(self.device, non_blocking=True)
            for tensor in (self.eta[batch.index].view(-1, 1, 1, 1), batch.kappa, batch.index)
        )
        detail = kappa.flatten() / SCHEDULE.kappa
        start = from_latent(batch.y)
        goal = self.goal(batch.photograph, batch.teacher, batch.trust, detail, start)
        with mixed_precision(self.device):
            x_0 = predict(self.forward, batch.x, batch.y, batch.lq, index, eta, kappa)
        self._keep_chains(batch, x_0.detach(), generator)
        return from_latent(x_0), goal

    def restore_picture(self, lq: Tensor, generator: torch.Generator) -> Tensor:
        """Return `lq` (B, 3, h, w) in [0, 1] restored with the averaged weights, in [0, 1]."""
        return restore(self.average, self.start, lq, generator)

    def draw_batch(self, generator: torch.Generator) -> Batch:
        """Return chains that go on from the last step of this shape, and fresh crops."""
        height, width, count = self.draw_shape(generator)
        waiting = self.waiting.pop((height, width), None)
        going_on = 0 if waiting is None else len(waiting[0].index)
        fresh = self._fresh(count - going_on, height, width, generator)
        if waiting is None:
            return fresh
        return Batch.join([self._moved_on(*waiting, generator), fresh])

    def _fresh(self, count: int, height: int, width: int, generator: torch.Generator) -> Batch:
        settings = self.settings
        lq, photograph, teacher, trust = self.pool.draw(count, height, width, generator)
        with torch.no_grad(), mixed_precision(self.device):
            y = latent_of_lq(self.start, lq)

        def chance() -> Tensor:
            return torch.rand(count, generator=generator)

        index = torch.randint(SCHEDULE.steps - 1, (count,), generator=generator)
        starts = chance() < settings.prior_share
        index = torch.where(starts, SCHEDULE.steps - 1, index)
        least, most = (math.log(kappa) for kappa in KAPPAS)
        other = torch.exp(least + (most - least) * chance())
        is_other = starts & (chance() < settings.kappa_share)
        kappa = torch.where(is_other, other, SCHEDULE.kappa).view(-1, 1, 1, 1)
        eta, scale, starting = (
            tensor.view(-1, 1, 1, 1).to(self.device) for tensor in (self.eta[index], kappa, starts)
        )
        noise = self._noise(y, generator)
        x = torch.where(
            starting,
            prior_sample(y, noise, eta, scale),
            forward_sample(to_latent(self.aim(photograph, teacher, trust)), y, noise, eta, scale),
        )
        return Batch(lq, photograph, teacher, trust, y, x, index, kappa)

    def _moved_on(self, batch: Batch, x_0: Tensor, generator: torch.Generator) -> Batch:
        """Return the batch one step further down its chains."""
        eta, eta_prev = (
            self.eta[batch.index - k].view(-1, 1, 1, 1).to(self.device) for k in (0, 1)
        )
        noise, kappa = self._noise(x_0, generator), batch.kappa.to(self.device)
        batch.x = posterior_step(batch.x, x_0, noise, eta, eta_prev, kappa)
        batch.index = batch.index - 1
        return batch

    def _noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        seed = int(torch.randint(1 << 62, (), generator=generator))
        own = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(like.shape, generator=own, device=self.device)

    def _keep_chains(self, batch: Batch, x_0: Tensor, generator: torch.Generator) -> None:
        keep = int(self.settings.chain_share * len(batch.index))
        order = torch.randperm(len(batch.index), generator=generator).tolist()
        index, kappa = batch.index.tolist(), batch.kappa.flatten().tolist()
        chosen = [k for k in order if index[k] > 0 and kappa[k] == SCHEDULE.kappa][:keep]
        if chosen:
            rows = torch.tensor(chosen)
            kept = x_0[rows.to(self.device)]
            self.waiting[tuple(batch.lq.shape[2:])] = (batch.select(rows), kept)


def append_row(path: Path, row: dict[str, float]) -> None:
    """Add `row` to a CSV file, with a header if the file is new."""
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, list(row), extrasaction="ignore")
        if is_new:
            writer.writeheader()
        writer.writerow({name: f"{value:.5g}" for name, value in row.items()})
