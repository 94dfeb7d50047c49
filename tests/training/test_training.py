"""Training of the bundled model: pool, network, loss, discriminator, chain, resuming, export."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

if TYPE_CHECKING:
    from pack.training.trainer import Trainer

CPU = torch.device("cpu")


class TinyFeatures(nn.Module):
    """A feature distance of the pictures' own colours, for a network that has none to load."""

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        return self.distances(image, [reference])[0]

    def distances(self, image: Tensor, references: list[Tensor]) -> list[Tensor]:
        return [(image - other).square().mean(dim=(1, 2, 3)) for other in references]

    def taps(self, image: Tensor) -> list[Tensor]:
        from pack.training.features import TAPPED_WIDTHS

        grey = F.avg_pool2d(image.float().mean(dim=1, keepdim=True), 2)
        slopes = [torch.linspace(-1, 1, width).view(1, -1, 1, 1) for width in TAPPED_WIDTHS]
        return [slope * grey + 0.5 for slope in slopes]


class Enlargement(nn.Module):
    """A start, or a teacher, that only enlarges, and adds `shift`."""

    def __init__(self, shift: float = 0.0):
        super().__init__()
        self.shift = shift

    def forward(self, image: Tensor) -> Tensor:
        large = F.interpolate(image.float(), scale_factor=4, mode="nearest")
        return (large + self.shift).to(image.dtype)


def write_photographs(folder: Path) -> list[Path]:
    from PIL import Image

    folder.mkdir()
    generator = np.random.default_rng(0)
    paths = []
    for number in range(2):
        small = generator.integers(0, 256, (70, 90, 3), dtype=np.uint8)
        paths.append(folder / f"{number}.png")
        Image.fromarray(small).resize((900, 700), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def write_pool(folder: Path, shift: int = 0) -> None:
    """Write a file of tiles whose photograph is the tile enlarged, and the teacher's of `shift`."""
    generator = np.random.default_rng(0)
    lq = generator.integers(20, 236, (6, 3, 96, 96), dtype=np.uint8)
    large = lq.repeat(4, axis=2).repeat(4, axis=3)
    folder.mkdir()
    np.savez(folder / "tiles_00000.npz", lq=lq, photograph=large)
    np.savez(folder / "taught_00000.npz", teacher=large + shift, trust=np.ones(6, np.float32))


def make_pool(folder: Path, teacher: nn.Module | None = None) -> Any:
    from pack.training.pool import Pool

    pool = Pool(folder, CPU, teacher or Enlargement(), Enlargement(), TinyFeatures())
    pool.refresh()
    return pool


# Tiles


@pytest.mark.comfy
def test_tiles_depend_on_seed_and_number_alone(tmp_path, monkeypatch):
    from pack.training import pool

    monkeypatch.setattr(pool, "TILES_PER_FILE", 3)
    photographs = write_photographs(tmp_path / "photographs")
    read = {}
    for folder, number, seed in (("a", 0, 0), ("b", 0, 0), ("c", 1, 0), ("d", 0, 1)):
        pool.write_tiles(tmp_path / folder, photographs, number, seed)
        with np.load(pool.tiles_path(tmp_path / folder, number)) as arrays:
            read[folder] = {name: arrays[name] for name in arrays}
    assert read["a"]["lq"].shape == (3, 3, 96, 96)
    assert read["a"]["photograph"].shape == (3, 3, 384, 384)
    for name in ("lq", "photograph"):
        assert np.array_equal(read["a"][name], read["b"][name])
        assert not np.array_equal(read["a"][name], read["c"][name])
        assert not np.array_equal(read["a"][name], read["d"][name])


@pytest.mark.comfy
def test_crops_of_the_pool_show_the_same_place_turned_the_same_way(tmp_path):
    write_pool(tmp_path / "pool", shift=5)
    pool = make_pool(tmp_path / "pool")
    drawn = pool.draw(12, 24, 40, torch.Generator().manual_seed(0))
    lq, photograph, teacher, trust = drawn
    assert lq.shape == (12, 3, 24, 40)
    assert trust.tolist() == [1] * 12
    assert torch.allclose(F.avg_pool2d(photograph, 4), lq, atol=1e-6)
    assert torch.allclose(teacher, photograph + 5 / 255, atol=1e-6)


@pytest.mark.comfy
def test_files_read_one_by_one_make_the_pool_that_all_at_once_make(tmp_path):
    generator = np.random.default_rng(0)
    folder = tmp_path / "pool"
    folder.mkdir()
    for number in range(5):
        count = number + 1
        lq = generator.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
        large = generator.integers(0, 256, (count, 3, 384, 384), dtype=np.uint8)
        np.savez(folder / f"tiles_{number:05d}.npz", lq=lq, photograph=large)
        trust = generator.integers(0, 2, count).astype(np.float32)
        np.savez(folder / f"taught_{number:05d}.npz", teacher=large[::-1].copy(), trust=trust)
    from pack.training.pool import Pool

    whole = make_pool(folder)
    slowly = Pool(folder, CPU, Enlargement(), Enlargement(), TinyFeatures())
    for number in range(5):
        slowly.refresh(most=1)
        assert len(slowly) == (number + 1) * (number + 2) // 2
    drawn = [pool.draw(20, 16, 24, torch.Generator().manual_seed(1)) for pool in (whole, slowly)]
    for one, other in zip(*drawn, strict=True):
        assert torch.equal(one, other)


@pytest.mark.comfy
def test_crops_come_from_everywhere_in_all_eight_positions(tmp_path):
    side = np.arange(96, dtype=np.uint8)
    rows, columns = np.meshgrid(2 * side, 2 * side, indexing="ij")
    lq = np.stack([rows, columns, rows])[None]
    large = lq.repeat(4, axis=2).repeat(4, axis=3)
    (tmp_path / "pool").mkdir()
    np.savez(tmp_path / "pool" / "tiles_00000.npz", lq=lq, photograph=large)
    np.savez(tmp_path / "pool" / "taught_00000.npz", teacher=large, trust=np.ones(1, np.float32))
    pool = make_pool(tmp_path / "pool")
    crops, *_ = pool.draw(90, 90, 94, torch.Generator().manual_seed(0))
    crops = (crops * 255 / 2).round()
    positions, corners = set(), {"rows": set(), "columns": set()}
    for crop in crops:
        down, across = (crop[:2, k, m] - crop[:2, 0, 0] for k, m in ((1, 0), (0, 1)))
        positions.add((*down.tolist(), *across.tolist()))
        corners["rows"].add(crop[0].min().item())
        corners["columns"].add(crop[1].min().item())
    assert len(positions) == 8
    assert all(sorted(map(abs, position)) == [0, 0, 1, 1] for position in positions)
    assert corners == {"rows": set(range(7)), "columns": set(range(7))}


@pytest.mark.comfy
def test_the_teacher_is_asked_once_and_trusted_where_it_is_nearer(tmp_path):
    write_pool(tmp_path / "pool")
    (tmp_path / "pool" / "taught_00000.npz").unlink()
    near = make_pool(tmp_path / "pool", teacher=Enlargement(0.1))
    assert near._trust.tolist() == [0] * 6  # the other network makes no error here
    with np.load(tmp_path / "pool" / "taught_00000.npz") as arrays:
        assert arrays["teacher"].shape == (6, 3, 384, 384)
    again = make_pool(tmp_path / "pool", teacher=nn.Module())  # one that cannot be called
    assert len(again) == len(near) == 6
    again.refresh()
    assert len(again) == 6


# The network


@pytest.mark.comfy
def test_an_untrained_network_restores_to_the_starts_picture_whatever_the_noise():
    from pack.training.network import build_network, restore

    lq = torch.rand(1, 3, 20, 36, generator=torch.Generator().manual_seed(0))
    network = build_network()
    for kappa in (0.5, 2.0):
        restored = restore(network, Enlargement(), lq, torch.Generator().manual_seed(0), kappa)
        assert torch.allclose(restored, Enlargement()(lq), atol=1e-5)


@pytest.mark.comfy
def test_every_weight_belongs_to_one_optimiser(trainer):
    run = trainer()
    held = [
        id(p)
        for optimizer, _ in run.optimizers
        for g in optimizer.param_groups
        for p in g["params"]
    ]
    assert sorted(held) == sorted(id(p) for p in run.network.parameters())


@pytest.mark.comfy
def test_attention_for_training_is_comfyuis_with_its_gradients():
    from comfy.ldm.modules.attention import attention_pytorch

    from pack.training.network import attend

    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 16, 24)] * 3 + [(1, 3, 16, 16)]
    inputs = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    weights = torch.randn(5, 16, 24, generator=generator)

    def run(bias, *qkv):
        result = attend(attention_pytorch, *qkv, 3, mask=bias)
        return result, torch.autograd.grad((result * weights).sum(), qkv, retain_graph=True)

    query, key, value, bias = inputs
    result, gradients = run(bias, query, key, value)
    expected, expected_gradients = run(bias.detach(), query, key, value)
    assert torch.allclose(result, expected, atol=1e-5)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(gradient, wanted, atol=1e-5)
    (of_bias,) = torch.autograd.grad((result * weights).sum(), bias)
    stock = attention_pytorch(query, key, value, 3, mask=bias)
    (wanted,) = torch.autograd.grad((stock * weights).sum(), bias)
    assert torch.allclose(of_bias, wanted, atol=1e-5)


# The loss


def grid(period: int, strength: float) -> Tensor:
    """Return a picture of 96 pixels with a pattern of a period on a cloud."""
    generator = torch.Generator().manual_seed(period)
    pattern = torch.randn(1, 1, period, period, generator=generator)
    pattern = strength * (pattern - pattern.mean()) / pattern.std()
    return pattern.repeat(1, 3, 96 // period, 96 // period)


def clouds() -> Tensor:
    small = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return F.interpolate(small, size=(96, 96), mode="bicubic")


@pytest.mark.comfy
def test_the_phase_difference_catches_a_grid_and_nothing_else():
    from pack.training.loss import phase_difference

    target = clouds()
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(1))

    def found(error: Tensor) -> float:
        return phase_difference(target + error, target).item()

    for period in (2, 4):
        spread = (1 - 1 / period**2) ** 0.5  # of the whole pattern, over that of a sample
        assert found(grid(period, 0.01)) == pytest.approx(0.01 * spread, rel=0.02)
    for error in (torch.full_like(target, 0.1), 0.01 * noise, grid(3, 0.01)):
        assert found(error) < 0.002
    wave = torch.linspace(0, 6, 96).sin() * 0.03
    assert found(wave.expand(target.shape)) < 0.002


@pytest.mark.comfy
def test_the_grid_excess_catches_dots_of_one_or_more_colours_and_no_texture():
    from pack.training.loss import grid_excess

    def found(added: Tensor) -> float:
        return grid_excess(added.expand(1, 3, 96, 96)).item()

    noise = 0.01 * torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(1))
    colours = torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1)
    assert found(torch.zeros(1)) == 0
    assert found(clouds()) < 0.01 * found(noise)
    for texture in (noise, grid(3, 0.01)):
        for period, times in ((2, 3), (4, 12)):
            dots = grid(period, 0.01)
            assert found(dots) > times * found(texture)
            assert found(colours * dots) > times * found(colours * texture)


@pytest.mark.comfy
def test_the_structure_difference_is_what_the_similarity_lacks_to_one():
    from pack.images.metrics import ssim
    from pack.training.loss import structure_difference

    target = clouds() * 0.6 + 0.2
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
    assert structure_difference(target, target).item() == pytest.approx(0, abs=1e-5)
    found = []
    for strength in (0.01, 0.03, 0.1):
        found.append(structure_difference(target + strength * noise, target).item())
        assert found[-1] == pytest.approx(
            1 - ssim(target + strength * noise, target).item(), rel=0.3
        )
    assert found == sorted(found)


@pytest.mark.comfy
def test_the_energy_difference_asks_for_sharpness_and_not_for_a_place():
    from pack.training.loss import energy_difference

    generator = torch.Generator().manual_seed(0)
    target = 0.5 + 0.1 * torch.randn(1, 3, 96, 96, generator=generator)
    other = 0.5 + 0.1 * torch.randn(1, 3, 96, 96, generator=generator)
    blurred = F.avg_pool2d(target, 3, 1, 1, count_include_pad=False)
    same, elsewhere, soft = (
        energy_difference(picture, target).item() for picture in (target, other, blurred)
    )
    assert same == pytest.approx(0, abs=1e-6)
    assert soft > 5 * elsewhere


@pytest.mark.comfy
def test_the_energy_difference_asks_for_edges_before_it_asks_for_grain():
    from pack.training.loss import energy_difference

    generator = torch.Generator().manual_seed(0)
    target = 0.5 + 0.004 * torch.randn(1, 3, 96, 192, generator=generator)
    target[..., 96:] += 0.3 * (torch.arange(96) % 16 > 7)
    image = F.avg_pool2d(target, 3, 1, 1, count_include_pad=False).requires_grad_()
    (gradient,) = torch.autograd.grad(energy_difference(image, target).sum(), image)
    grain, edges = (half.square().sum().item() for half in gradient.chunk(2, dim=-1))
    assert edges > 3 * grain


@pytest.mark.comfy
def test_the_energy_is_the_teachers_also_where_its_picture_is_not_to_be_trusted():
    from pack.training.discriminator import FeatureDiscriminator
    from pack.training.loss import Comparison, Goal, LossShares, RestorationLoss

    image, teacher = torch.zeros(2, 3, 96, 96), clouds().expand(2, -1, -1, -1)
    goal = Goal(image, image, teacher, torch.tensor([1.0, 0.0]), torch.ones(2), image)
    shares = LossShares(**{**dict.fromkeys(vars(LossShares()), 0.0), "energy": 1.0})
    comparison = Comparison(TinyFeatures(), image + 0.3 * teacher, goal)
    part = RestorationLoss(shares).parts(comparison, FeatureDiscriminator())["energy"]
    (gradient,) = torch.autograd.grad(part(), comparison.image)
    torch.testing.assert_close(gradient[0], gradient[1])
    assert gradient.abs().max() > 0


@pytest.mark.comfy
def test_a_pooled_error_leaves_what_is_finer_than_its_squares_to_others():
    from pack.training.loss import absolute_difference

    target = clouds()
    for pooled in (1, 4):
        shifted = absolute_difference(target + 0.1, target, pooled)
        assert shifted.item() == pytest.approx(0.1, abs=1e-6)
    fine = target + grid(4, 0.1)
    assert (
        absolute_difference(fine, target, 4).item()
        < 0.1 * absolute_difference(fine, target, 1).item()
    )


@pytest.mark.comfy
def test_the_features_see_every_phase_of_a_picture():
    from pack.training.features import FeatureDistance
    from pack.training.loss import PHASES, Comparison, Goal

    generator = torch.Generator().manual_seed(0)
    image, photograph = torch.rand(2, 1, 3, 80, 80, generator=generator)
    goal = Goal(photograph, photograph, photograph, torch.ones(1), torch.ones(1), photograph)
    features = FeatureDistance()
    moved = Comparison(features, image, goal, (3, 8))
    for found, wanted in zip(moved.of_image, features.taps(image[..., 3:67, 8:72]), strict=True):
        torch.testing.assert_close(found, wanted)
    power = torch.zeros(2, 2)
    for top in range(0, PHASES, 5):  # even ones and odd ones
        for left in range(0, PHASES, 5):
            comparison = Comparison(features, image, goal, (top, left))
            distance = comparison.distance(comparison.of_photograph).sum()
            (gradient,) = torch.autograd.grad(distance, comparison.image)
            inner = gradient[..., PHASES:-PHASES, PHASES:-PHASES]
            power += inner.square().unfold(2, 2, 2).unfold(3, 2, 2).sum(dim=(0, 1, 2, 3))
    assert power.max() < 1.15 * power.min()


@pytest.mark.comfy
def test_each_part_of_the_loss_has_its_share_of_the_gradient():
    from pack.training.discriminator import FeatureDiscriminator
    from pack.training.loss import Comparison, Goal, LossShares, RestorationLoss

    torch.manual_seed(0)
    target = clouds().expand(2, -1, -1, -1)
    image = target + 0.05 * torch.randn(2, 3, 96, 96)
    goal = Goal(target, target, target + 0.01, torch.ones(2), torch.ones(2), target)
    comparison = Comparison(TinyFeatures(), image, goal)
    judge = FeatureDiscriminator().requires_grad_(False).eval()
    nothing = dict.fromkeys(vars(LossShares()), 0.0)

    def gradient(ramp: float = 1.0, **shares: float) -> Tensor:
        loss = RestorationLoss(LossShares(**{**nothing, **shares}))
        return loss.gradient(comparison, judge, adversarial=ramp)[0]

    absolute = gradient()
    for name in nothing:
        part = gradient(**{name: 0.5}) - absolute
        assert part.norm().item() == pytest.approx(0.5 * absolute.norm().item(), rel=1e-3), name
    quieter = gradient(ramp=0.2, adversarial=0.5) - absolute
    assert quieter.norm().item() == pytest.approx(0.1 * absolute.norm().item(), rel=1e-3)
    values = RestorationLoss(LossShares()).gradient(comparison, judge, adversarial=0.0)[1]
    assert set(values) == {"absolute", *nothing}
    assert values["adversarial"].item() == 0


@pytest.mark.comfy
def test_a_processor_without_units_for_bfloat16_computes_in_float32(monkeypatch):
    from pack.training import precision

    card = torch.device("cuda")
    assert precision.fast_dtype(card) == torch.bfloat16
    for has_units, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        units = {"avx512_bf16": has_units}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda units=units: units, raising=False)
        assert precision.fast_dtype(CPU) == dtype
        x = torch.rand(2, 2)
        with precision.mixed_precision(CPU):
            assert (x @ x).dtype == dtype


# The discriminator


@pytest.mark.comfy
def test_the_discriminator_learns_in_few_steps_which_of_two_crops_is_real():
    from pack.training.discriminator import FeatureDiscriminator, doubt
    from pack.training.features import FeatureDistance

    torch.manual_seed(0)
    features, judge = FeatureDistance(), FeatureDiscriminator()
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-3, betas=(0.0, 0.99))

    def scores(seed: int) -> tuple[list[Tensor], list[Tensor]]:
        """Score a texture and the same one blurred."""
        real = 0.5 + 0.1 * torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
        made = F.avg_pool2d(real, 3, 1, 1, count_include_pad=False)
        with torch.no_grad():
            taps = features.taps(torch.cat([real, made]))
        halves = [score.chunk(2) for score in judge(taps)]
        return [half[0] for half in halves], [half[1] for half in halves]

    of_real, of_made = scores(0)
    sides = [score.shape for score in of_real]
    assert sides == [(4, 1, side, side) for side in (32, 32, 16)]
    assert doubt(of_real, of_real).tolist() == pytest.approx([np.log(2)] * 4)
    for seed in range(40):
        loss = doubt(*scores(seed)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    judge.eval()
    of_real, of_made = scores(100)
    assert doubt(of_real, of_made).max() < 0.3
    assert doubt(of_made, of_real).min() > 1


@pytest.mark.comfy
def test_what_passes_for_real_is_the_teachers_picture_where_that_is_trusted():
    from pack.training.loss import Comparison, Goal

    photograph, teacher = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    trust = torch.tensor([1.0, 0.0])
    goal = Goal(photograph, photograph, teacher, trust, torch.ones(2), photograph)
    features = TinyFeatures()
    comparison = Comparison(features, photograph, goal)
    real = torch.stack([teacher[0], photograph[1]])
    for found, wanted in zip(comparison.of_real, features.taps(real), strict=True):
        assert torch.equal(found, wanted)
    assert not torch.equal(comparison.of_real[0][0], comparison.of_real[0][1])


@pytest.mark.comfy
def test_a_picture_is_looked_at_once_for_all_parts_and_as_the_distance_does():
    from pack.training.discriminator import FeatureDiscriminator
    from pack.training.features import FeatureDistance
    from pack.training.loss import Comparison, Goal, LossShares, RestorationLoss

    seen = []

    class Counting(FeatureDistance):
        def taps(self, image: Tensor) -> list[Tensor]:
            seen.append(image)
            return super().taps(image)

    features = Counting()
    generator = torch.Generator().manual_seed(0)
    image, photograph, teacher = torch.rand(3, 2, 3, 64, 64, generator=generator)
    goal = Goal(photograph, photograph, teacher, torch.ones(2), torch.ones(2), photograph)
    comparison = Comparison(features, image, goal)
    judge = FeatureDiscriminator().requires_grad_(False).eval()
    RestorationLoss(LossShares()).gradient(comparison, judge, adversarial=1.0)
    assert len(seen) == 3
    for reference, taps in (
        (photograph, comparison.of_photograph),
        (teacher, comparison.of_teacher),
    ):
        (expected,) = features.distances(image, [reference])
        torch.testing.assert_close(comparison.distance(taps), expected)


@pytest.mark.comfy
def test_the_features_for_the_discriminator_are_those_of_the_distance_before_their_length_is_lost():
    from pack.training.features import TAPPED_WIDTHS, FeatureDistance, normalize

    features = FeatureDistance()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    taps = features.taps(image)
    assert tuple(found.shape[1] for found in taps) == TAPPED_WIDTHS
    for found, known in zip(taps, features.features(image), strict=True):
        torch.testing.assert_close(normalize(found), known)


# Training


@pytest.fixture
def trainer(tmp_path):
    """Return a function that makes a trainer on one small pool."""
    from pack.training.trainer import Trainer, TrainSettings

    write_pool(tmp_path / "pool", shift=4)

    def make(**changes: Any) -> Trainer:
        chosen = {
            "shapes": ((16, 16, 4, 1.0),),
            "warmup_steps": 1,
            "quiet_steps": 1,
            "ramp_steps": 2,
            "chain_share": 0.5,
            **changes,
        }
        pool = make_pool(tmp_path / "pool")
        return Trainer(TrainSettings(**chosen), pool, Enlargement(), TinyFeatures(), CPU)

    return make


@pytest.mark.comfy
def test_a_training_starts_at_the_starts_picture_and_moves(trainer):
    run = trainer()
    values = run.train_step()
    assert values["absolute"].item() < 2e-3  # the start makes no error in this pool
    parts = {"structure", "feature", "energy", "phase", "grid", "adversarial", "judged"}
    assert parts <= set(values)
    assert values["adversarial"].item() == 0  # not listened to yet
    run.train_step()
    assert run.train_step()["adversarial"].item() > 0
    assert all(torch.isfinite(weight).all() for weight in run.network.parameters())


@pytest.mark.comfy
def test_training_lowers_the_error(trainer):
    from pack.training.loss import LossShares

    alone = LossShares(**dict.fromkeys(vars(LossShares()), 0.0))
    run = trainer(shares=alone, seed=1)
    run.start = Enlargement(0.1)
    errors = [run.train_step()["absolute"].item() for _ in range(6)]
    assert np.mean(errors[-2:]) < 0.95 * np.mean(errors[:2])


@pytest.mark.comfy
def test_a_chain_goes_on_until_its_last_step(trainer):
    run = trainer(prior_share=1.0, kappa_share=0.0, chain_share=0.5)
    seen = []
    for _ in range(3):
        run.train_step()
        (waiting,) = run.waiting.values()
        seen.append(sorted(waiting[0].index.tolist()))
    assert seen[0] == [3, 3]
    assert min(min(indices) for indices in seen) >= 1
    assert any(index < 3 for indices in seen[1:] for index in indices)


@pytest.mark.comfy
def test_a_saved_state_continues_exactly_as_if_it_had_not_stopped(trainer, tmp_path):
    run = trainer()
    for _ in range(2):
        run.train_step()
    run.seconds = 12.0
    run.save_state(tmp_path / "state.pt")
    again = trainer()
    again.load_state(tmp_path / "state.pt")
    assert (again.step, again.seconds) == (2, 12.0)
    run.train_step()
    again.train_step()
    for part in ("network", "average", "discriminator"):
        one, other = (getattr(each, part).state_dict() for each in (run, again))
        for name, weight in one.items():
            assert torch.equal(other[name], weight), (part, name)


@pytest.mark.comfy
def test_a_run_does_not_go_on_beside_another_start_or_in_another_shape(trainer, tmp_path):
    from pack.training.network import CONFIG
    from pack.training.start import build_start

    path = tmp_path / "state.pt"
    one, other = (build_start(random_start("compact")) for _ in range(2))
    parts = trainer()
    pool, features = parts.pool, parts.features

    def run(start: nn.Module, config: Any = CONFIG) -> Trainer:
        return type(parts)(parts.settings, pool, start, features, CPU, config)

    run(one).save_state(path)
    run(one).load_state(path)
    remedy = r"another {} than was asked for\. Give the --start"
    for start in (other, Enlargement()):
        with pytest.raises(ValueError, match=remedy.format("start")):
            run(start).load_state(path)
    with pytest.raises(ValueError, match=remedy.format("network")):
        run(one, replace(CONFIG, num_res_blocks=(1, 1, 2))).load_state(path)
    judge = parts.discriminator.state_dict()
    older = {name: weight for name, weight in judge.items() if not name.startswith("heads.2.")}
    torch.save({**torch.load(path), "discriminator": older}, path)
    with pytest.raises(ValueError, match=remedy.format("discriminator")):
        run(one).load_state(path)


@pytest.mark.comfy
def test_a_start_alone_is_not_published_as_a_model(tmp_path):
    from pack.training.network import publish_weights
    from pack.training.start import START_PATH

    with pytest.raises(ValueError, match=r"has no Swin-UNet.*copying it"):
        publish_weights(START_PATH, tmp_path / "published.safetensors", 1.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.comfy
def test_the_learning_rate_falls_from_its_peak_to_its_end_with_the_clock(trainer):
    run = trainer()
    assert run.rate_share() == pytest.approx(1)
    run.seconds = 30 * run.settings.minutes
    assert run.rate_share() == pytest.approx(0.5, rel=0.02)
    run.seconds = 60 * run.settings.minutes
    assert run.rate_share() == pytest.approx(run.settings.final_rate)


@pytest.mark.comfy
def test_a_run_logs_its_parts_and_exports_at_its_end(trainer, tmp_path, monkeypatch):
    from pack.training import trainer as module

    monkeypatch.setattr(module, "LOG_EVERY", 2)
    run = trainer(minutes=1e-6)
    exported = []
    run.run(tmp_path / "losses.csv", 1.0, lambda: exported.append(run.step))
    assert exported == [1]
    run = trainer(minutes=1e-6)
    for _ in range(3):
        run.train_step()
    run.run(tmp_path / "losses.csv", 1.0, lambda: exported.append(run.step))
    header, row = (tmp_path / "losses.csv").read_text().splitlines()
    named = dict(zip(header.split(","), row.split(","), strict=True))
    assert {"step", "minutes", "absolute", "adversarial", "judged", "tiles"} <= set(named)
    assert float(named["step"]) == 4


# The start


@pytest.mark.comfy
def test_the_cut_teacher_is_its_chosen_blocks_between_its_first_and_last_layers(monkeypatch):
    import spandrel

    from pack.training import start, teacher

    monkeypatch.setattr(start, "KEPT_BLOCKS", (0, 2))
    monkeypatch.setattr(start, "BODY_BLOCKS", 3)
    monkeypatch.setattr(teacher, "BODY_BLOCKS", 3)
    generator = torch.Generator().manual_seed(0)
    named = {}
    for name in teacher.convolution_names():
        seen = {"conv_first": 3}.get(name, 64 + 32 * (int(name[-1]) - 1) if "rdb" in name else 64)
        made = {"conv_last": 3}.get(name, 32 if name[-1] in "1234" and "rdb" in name else 64)
        named[f"{name}.weight"] = 0.05 * torch.randn(made, seen, 3, 3, generator=generator)
        named[f"{name}.bias"] = 0.05 * torch.randn(made, generator=generator)
    whole = spandrel.ModelLoader().load_from_state_dict(dict(named)).model
    # The published network without its second block.
    without = {name: weight for name, weight in named.items() if not name.startswith("body.1.")}
    without = {name.replace("body.2.", "body.1."): weight for name, weight in without.items()}
    expected = spandrel.ModelLoader().load_from_state_dict(without).model
    lq = torch.rand(1, 3, 12, 16, generator=generator)
    with torch.no_grad():
        made = start.build_start(start.cut_teacher(whole))(lq)
        torch.testing.assert_close(made, expected(lq), rtol=1e-4, atol=1e-5)


@pytest.fixture
def start_trainer(tmp_path):
    """Return a function that makes a training of a small start on one pool."""
    from pack.training.start_trainer import START_SETTINGS, StartTrainer

    write_pool(tmp_path / "pool of the start", shift=4)

    def make(**changes: Any) -> StartTrainer:
        torch.manual_seed(0)
        settings = replace(START_SETTINGS, shapes=((16, 16, 2, 1.0),), warmup_steps=1, **changes)
        pool = make_pool(tmp_path / "pool of the start")
        weights = random_start("cut teacher")
        return StartTrainer(settings, pool, weights, TinyFeatures(), CPU)

    return make


@pytest.mark.comfy
def test_the_start_is_trained_to_be_the_teachers_picture_where_that_is_trusted(start_trainer):
    run = start_trainer(teacher_share=1.0)
    generator = torch.Generator().manual_seed(0)
    image, goal = run.restore_crops(generator)
    assert image.shape == goal.teacher.shape == (2, 3, 64, 64)
    assert torch.equal(goal.aim, goal.teacher)
    assert not torch.equal(goal.teacher, goal.photograph)
    run.pool._trust = torch.zeros(len(run.pool))
    _, goal = run.restore_crops(generator)
    assert torch.equal(goal.aim, goal.photograph)
    half = start_trainer(teacher_share=0.5)
    _, goal = half.restore_crops(generator)
    torch.testing.assert_close(goal.aim, (goal.photograph + goal.teacher) / 2)


@pytest.mark.comfy
def test_training_the_start_lowers_the_error(start_trainer):
    from pack.training.loss import LossShares

    run = start_trainer(shares=LossShares(**dict.fromkeys(vars(LossShares()), 0.0)))
    errors = [run.train_step()["absolute"].item() for _ in range(8)]
    assert np.mean(errors[-2:]) < 0.95 * np.mean(errors[:2])


@pytest.mark.comfy
def test_an_exported_start_is_what_the_next_training_begins_with(start_trainer, trainer, tmp_path):
    from pack.training.network import load_weights
    from pack.training.session import build_trainer, keep
    from pack.training.start import START_PATH

    run = start_trainer()
    run.train_step()
    run.seconds = 120.0
    keep(run, tmp_path, [])
    path = tmp_path / "export_0002.safetensors"
    chains = trainer()
    arguments = Namespace(refit=None, resume_from=None, start=path)
    made = build_trainer(arguments, chains.settings, chains.pool, TinyFeatures(), CPU)
    for name, weight in run.average.state_dict().items():
        assert torch.equal(made.start.state_dict()[name], weight.half().float())
    arguments.start = None
    made = build_trainer(arguments, chains.settings, chains.pool, TinyFeatures(), CPU)
    for name, weight in load_weights(START_PATH).items():
        assert torch.equal(made.start.state_dict()[name], weight)


@pytest.mark.comfy
def test_the_start_enlarges_a_picture_better_than_interpolation_does():
    from pack.images.metrics import ssim
    from pack.images.resize import enlarge_bicubic
    from pack.training.network import load_weights
    from pack.training.start import START_PATH, build_start
    from pack.training.validation import degrade_at, read_picture

    original = read_picture("astronaut")[..., 32:160, 160:288]
    start = build_start(load_weights(START_PATH)).eval()
    for level in ("heavy", "light"):
        lq = degrade_at(original, level, 0)
        with torch.no_grad():
            found = ssim(start(lq).clamp(0, 1), original).item()
        assert found > ssim(enlarge_bicubic(lq, 4).clamp(0, 1), original).item() + 0.01


# The last layer


@pytest.mark.comfy
def test_refitting_takes_the_grid_away_and_touches_the_last_layer_alone(trainer, monkeypatch):
    from pack.training import refit
    from pack.training.loss import grid_excess
    from pack.training.network import restore

    run = trainer(prior_share=1.0, chain_share=0.0, kappa_share=0.0)
    with torch.no_grad():
        torch.nn.init.normal_(run.network.out[2].weight, std=0.002)
    before = {name: weight.clone() for name, weight in run.network.state_dict().items()}
    clock = iter(range(1000))
    # The module's own name for the clock: other threads, which wait by the real one, take no ticks.
    ticks = SimpleNamespace(monotonic=lambda: float(next(clock)))
    monkeypatch.setattr(refit, "time", ticks)
    weights = refit.refit_last_layer(run, minutes=40 / 60, residual=0.5)
    assert all(torch.equal(run.network.state_dict()[name], before[name]) for name in before)
    changed = {name for name in before if not torch.equal(weights[name], before[name])}
    assert changed <= {"out.2.weight", "out.2.bias"}
    lq = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    halved = {**before, **{name: 0.5 * before[name] for name in changed}}
    found = []
    for tried in (halved, weights):
        run.network.load_state_dict(tried)
        restored = restore(run.network, run.start, lq, torch.Generator().manual_seed(0))
        found.append(grid_excess(restored - run.start(lq)).mean().item())
    assert found[1] < 0.5 * found[0]


# The file


@pytest.mark.comfy
@pytest.mark.parametrize(
    ("kind", "made_of"),
    [("compact", "realesr-general-x4v3"), ("cut teacher", "cut from RealESRGAN_x4plus")],
)
def test_an_exported_file_loads_as_a_model_that_starts_from_its_own_network(
    trainer, tmp_path, kind, made_of
):
    from pack.model_loaders.checkpoint import read_checkpoint
    from pack.model_loaders.record import find_record
    from pack.model_loaders.resshift import load_resshift
    from pack.training.network import CONFIG, RECORD, load_weights
    from pack.training.session import build_trainer, keep
    from pack.training.start import build_start

    torch.manual_seed(0)
    weights = random_start(kind)
    run = trainer()
    run.start = build_start(weights)
    run.train_step()
    run.seconds = 180.0
    keep(run, tmp_path, [])
    path = tmp_path / "export_0003.safetensors"
    held = [*run.network.parameters(), *run.start.parameters()]
    assert path.stat().st_size < 2.05 * sum(weight.numel() for weight in held)
    with safe_open(path, framework="pt") as opened:
        credits = opened.metadata()["credits"]
    assert f"start: {made_of}" in credits
    assert "teacher: RealESRGAN_x4plus" in credits
    checkpoint = read_checkpoint(path)
    assert find_record(checkpoint, "auto") == RECORD
    loaded = load_resshift(path, dtype="fp32").model
    assert loaded.network_config == replace(CONFIG, start=run.start.config)
    lq = torch.rand(1, 3, 12, 12)
    half = {name: weight.half().float() for name, weight in weights.items()}
    with torch.no_grad():
        expected = build_start(half)(lq)
        torch.testing.assert_close(loaded.diffusion_model.start(lq), expected, rtol=1e-3, atol=1e-4)

    # What is trained on goes on with its own start.
    arguments = Namespace(refit=None, resume_from=path, start=None)
    again = build_trainer(arguments, run.settings, run.pool, TinyFeatures(), CPU)
    for name, weight in run.average.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], weight.half().float())
    with torch.no_grad():
        torch.testing.assert_close(again.start(lq), expected, rtol=1e-3, atol=1e-4)
    assert set(load_weights(path)) > {f"start.{name}" for name in weights}


@pytest.mark.comfy
def test_the_bundled_model_is_trained_on_in_its_own_shape(trainer):
    from pack.model_loaders.networks.compact import CompactConfig
    from pack.model_loaders.resshift import BUNDLED_MODEL_PATH
    from pack.training.network import CONFIG
    from pack.training.session import build_trainer

    run = trainer()
    arguments = Namespace(refit=BUNDLED_MODEL_PATH, resume_from=None, start=None)
    made = build_trainer(arguments, run.settings, run.pool, TinyFeatures(), CPU)
    assert made.network.config != CONFIG
    assert made.network.config.start is None
    assert made.start.config == CompactConfig()


def random_start(kind: str) -> dict[str, Tensor]:
    """Return weights of a start's shape that keep activations small."""
    import comfy.ops

    from pack.model_loaders.networks.compact import CompactConfig
    from pack.model_loaders.networks.rrdb import RRDBConfig
    from pack.model_loaders.networks.swin_unet import start_network
    from pack.training.start import KEPT_BLOCKS

    config = CompactConfig() if kind == "compact" else RRDBConfig(blocks=len(KEPT_BLOCKS))
    made = {"operations": comfy.ops.disable_weight_init}
    return {
        name: 0.02 * torch.randn(weight.shape) if weight.ndim == 4 else torch.zeros(weight.shape)
        for name, weight in start_network(config, made).state_dict().items()
    }


# The optimiser and the curve


@pytest.mark.parametrize("shape", [(3, 16, 48), (3, 48, 16), (1, 32, 32)])
def test_the_update_of_a_matrix_has_singular_values_about_one(shape):
    from pack.training.muon import orthogonalise

    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrices *= torch.logspace(-3, 3, len(matrices)).view(-1, 1, 1)  # none hides behind another
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_weights_of_one_shape_are_updated_as_if_each_were_alone():
    from pack.training.muon import Muon

    def stepped(weights: list[torch.nn.Parameter]) -> list[torch.Tensor]:
        optimizer = Muon(weights, lr=0.1)
        optimizer.step()
        return [weight.detach() for weight in weights]

    def parameters() -> list[torch.nn.Parameter]:
        generator = torch.Generator().manual_seed(0)
        made = []
        for shape in ((8, 4, 3, 3), (8, 36), (8, 4, 3, 3), (36, 8)):
            weight = torch.nn.Parameter(torch.randn(shape, generator=generator))
            weight.grad = torch.randn(shape, generator=generator)
            made.append(weight)
        return made

    together = stepped(parameters())
    for weight, alone in zip(together, parameters(), strict=True):
        before = alone.detach().clone()
        (expected,) = stepped([alone])
        assert not torch.equal(weight, before)
        assert torch.allclose(weight, expected, atol=1e-2)


def test_the_curve_of_a_run_is_drawn_from_its_tables(tmp_path):
    from PIL import Image

    from pack.training.curve import FIGURES, LEVELS, draw_curve, smoothed

    validation = ["step", *(f"{level}_{name}" for level in LEVELS for name in FIGURES)]
    for name, columns in (
        ("losses", ["step", "absolute", "structure"]),
        ("validation", validation),
    ):
        rows = [",".join(str(step + k) for k in range(len(columns))) for step in (20, 40, 60)]
        (tmp_path / f"{name}.csv").write_text("\n".join([",".join(columns), *rows]) + "\n")
    draw_curve(tmp_path, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert len(picture.convert("L").getcolors()) > 10
    assert smoothed(np.arange(40.0))[[0, 1, 39]].tolist() == [0.0, 0.5, 32.0]
