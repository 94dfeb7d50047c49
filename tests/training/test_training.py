"""Training of the bundled model: teacher's file, pool, chain, resuming, export."""

from __future__ import annotations

import importlib.util
import struct

import numpy as np
import pytest
import torch

from pack.training.data import read_table
from pack.training.teacher import convolution_names, read_ncnn_convolutions

FREE_LICENCES = ("CC0", "CC-BY-", "CC-BY-SA", "GPL-2+")


def test_every_photograph_has_a_free_licence_and_a_package_with_a_checksum():
    packages = {row["package"]: row for row in read_table("packages.csv")}
    photographs = read_table("photographs.csv")
    assert len({(row["package"], row["file"]) for row in photographs}) == len(photographs) > 200
    for row in photographs:
        assert row["licence"].startswith(FREE_LICENCES), row
        assert len(packages[row["package"]]["sha256"]) == 64


def test_the_teacher_has_351_convolutions_of_different_names():
    names = list(convolution_names())
    assert len(names) == len(set(names)) == 351
    assert names[0] == "conv_first"
    assert names[1] == "body.0.rdb1.conv1"
    assert names[-1] == "conv_last"


def ncnn_file() -> tuple[str, bytes, np.ndarray]:
    param = (
        "7767517\n3 3\nInput data 0 1 data\n"
        "Convolution a 1 1 data b 0=1 1=3 4=1 5=1 6=27\n"
        "Split s 1 2 b c d\n"
        "Convolution e 1 1 c f 0=2 1=1 5=1 6=2\n"
    )
    half = np.arange(27, dtype="<f2") / 8
    content = struct.pack("<I", 0x01306B47) + half.tobytes() + b"\0\0"  # 54 bytes padded to 56
    content += np.array([0.5], "<f4").tobytes()
    content += struct.pack("<I", 0) + np.array([1, 2, 3, 4], "<f4").tobytes()
    return param, content, half


def test_half_and_single_precision_weights_of_ncnn_are_read_with_their_padding():
    param, content, half = ncnn_file()
    state_dict = read_ncnn_convolutions(param, content, ["first", "second"])
    assert state_dict["first.weight"].shape == (1, 3, 3, 3)
    assert np.array_equal(state_dict["first.weight"].flatten().numpy(), half.astype(np.float32))
    assert state_dict["first.bias"].tolist() == [0.5]
    assert state_dict["second.weight"].shape == (2, 1, 1, 1)
    assert state_dict["second.bias"].tolist() == [3, 4]


def test_an_ncnn_file_with_bytes_left_over_is_refused():
    param, content, _ = ncnn_file()
    with pytest.raises(ValueError, match="longer"):
        read_ncnn_convolutions(param, content + b"\0", ["first", "second"])


def test_the_teachers_files_come_from_the_installed_package_without_a_download(tmp_path):
    from pack.training.teacher import PACKAGE, read_model_files

    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip(f"{PACKAGE} has no build for this system")
    param, weights = read_model_files(tmp_path)
    assert len(read_ncnn_convolutions(param, weights, list(convolution_names()))) == 702
    assert not list(tmp_path.iterdir())


def write_pool(folder) -> None:
    generator = np.random.default_rng(0)
    lq = generator.integers(0, 256, (6, 3, 64, 64), dtype=np.uint8)
    large = lq.repeat(4, axis=2).repeat(4, axis=3)
    folder.mkdir()
    np.savez(folder / "tiles_0000.npz", lq=lq, teacher=large)


@pytest.fixture
def trainer(tmp_path):
    from pack.training.loss import LossWeights
    from pack.training.pool import Pool
    from pack.training.trainer import Trainer, TrainSettings

    write_pool(tmp_path / "pool")
    settings = TrainSettings(
        shapes=((32, 32, 2, 1.0),),
        loss=LossWeights(feature=0.0),
        chain_starts=1.0,
        warmup_steps=1,
    )

    def make() -> Trainer:
        return Trainer(settings, Pool(tmp_path / "pool"), tmp_path)

    torch.manual_seed(0)
    return make


@pytest.mark.comfy
def test_crops_of_the_pool_show_the_same_place_turned_the_same_way(tmp_path):
    from pack.training.pool import Pool

    write_pool(tmp_path / "pool")
    drawn = Pool(tmp_path / "pool").draw(12, 24, 40, torch.Generator().manual_seed(0))
    lq, teacher = drawn
    assert lq.shape == (12, 3, 24, 40)
    assert torch.allclose(torch.nn.functional.avg_pool2d(teacher, 4), lq, atol=1e-6)


@pytest.mark.comfy
def test_an_untrained_network_restores_to_the_bicubic_enlargement():
    from pack.images.resize import enlarge_bicubic
    from pack.training.network import build_network, restore

    lq = torch.rand(1, 3, 20, 36)
    restored = restore(build_network(), lq, torch.Generator().manual_seed(0))
    assert torch.allclose(restored, enlarge_bicubic(lq, 4).clamp(0, 1), atol=1e-5)


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


@pytest.mark.comfy
def test_a_chain_stays_in_training_until_its_last_step(trainer):
    run = trainer()
    indices = []
    for _ in range(4):
        run.train_step()
        waiting = run.waiting.get((32, 32))
        indices.append([] if waiting is None else waiting.index.tolist())
    assert indices == [[2, 2], [1, 1], [0, 0], []]


@pytest.mark.comfy
def test_a_saved_state_continues_where_it_stopped(trainer):
    run = trainer()
    run.train_step()
    run.seconds = 12.0
    run.save_state()
    again = trainer()
    again.load_state()
    assert (again.step, again.seconds) == (1, 12.0)
    for name, weight in run.average.state_dict().items():
        assert torch.equal(again.average.state_dict()[name], weight)
    for (restored, _), (saved, _) in zip(again.optimizers, run.optimizers, strict=True):
        assert restored.state_dict()["state"].keys() == saved.state_dict()["state"].keys()


@pytest.mark.comfy
def test_an_exported_file_has_its_record_and_can_be_trained_on(trainer, tmp_path):
    from pack.model_loaders.checkpoint import read_checkpoint
    from pack.model_loaders.detection import detect_swin_unet
    from pack.model_loaders.record import find_record
    from pack.training.network import CONFIG, RECORD, save_weights

    run = trainer()
    run.train_step()
    path = tmp_path / "model.safetensors"
    save_weights(path, run.network.state_dict(), {"licence": "GPL-3.0-or-later"})
    assert path.stat().st_size < 16e6
    checkpoint = read_checkpoint(path)
    assert find_record(checkpoint, "auto") == RECORD
    assert detect_swin_unet(checkpoint.state_dict, path, image_size=32) == CONFIG

    again = trainer()
    again.start_from(path)
    for name, weight in run.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], weight.half().float())


@pytest.mark.comfy
def test_a_worse_model_never_replaces_a_better_one(tmp_path):
    from pack.training.network import exported_score, publish_weights, save_weights

    target = tmp_path / "bundled" / "model.safetensors"
    for name, score, kept in (("a", "1.5", 1.5), ("b", "1.2", 1.5), ("c", "1.6", 1.6)):
        source = tmp_path / f"{name}.safetensors"
        save_weights(source, {"weight": torch.zeros(1)}, {"score": score})
        publish_weights(source, target)
        assert exported_score(target) == kept


@pytest.mark.comfy
def test_the_learning_rate_falls_from_its_peak_to_its_end_with_the_clock(trainer):
    run = trainer()
    assert run.rate_share() == pytest.approx(1)
    run.seconds = 30 * run.settings.minutes
    assert run.rate_share() == pytest.approx(0.5, rel=0.02)
    run.seconds = 60 * run.settings.minutes
    assert run.rate_share() == pytest.approx(run.settings.final_rate)


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
def test_training_lowers_the_loss(trainer):
    run = trainer()
    losses = [run.train_step()["mse"] for _ in range(5)]
    assert np.mean(losses[-2:]) < np.mean(losses[:2])


def test_the_curve_of_a_run_is_drawn_from_its_tables(tmp_path):
    from PIL import Image

    from pack.training.curve import FIGURES, LEVELS, draw_curve, smoothed

    validation = ["step", *(f"{level}_{name}" for level in LEVELS for name in FIGURES)]
    for name, columns in (("losses", ["step", "mse", "structure"]), ("validation", validation)):
        rows = [",".join(str(step + k) for k in range(len(columns))) for step in (20, 40, 60)]
        (tmp_path / f"{name}.csv").write_text("\n".join([",".join(columns), *rows]) + "\n")
    draw_curve(tmp_path, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert len(picture.convert("L").getcolors()) > 10
    assert smoothed(np.arange(40.0))[[0, 1, 39]].tolist() == [0.0, 0.5, 32.0]


@pytest.mark.comfy
def test_structure_asks_for_the_full_contrast_where_a_squared_error_asks_for_less():
    from pack.training.loss import LossWeights, RestorationLoss
    from pack.training.network import to_latent

    generator = torch.Generator().manual_seed(0)
    known, unknown = (0.1 * torch.randn(4, 3, 64, 64, generator=generator) for _ in range(2))
    target = to_latent(0.5 + known + unknown)
    scales = (0.8, 1.0, 1.2, 1.4, 1.6)

    def best_scale(structure: float) -> float:
        weights = LossWeights(absolute=0.0, feature=0.0, structure=structure, energy=0.0)
        loss = RestorationLoss(weights)
        far_away = target + 10  # makes the squared error count next to nothing
        y = far_away if structure else target
        return min(scales, key=lambda s: loss(to_latent(0.5 + s * known), target, y)[0].item())

    assert best_scale(structure=0.0) == 1.0
    assert best_scale(structure=1.0) == 1.4  # the target's contrast is 2 ** 0.5 of the known part's
