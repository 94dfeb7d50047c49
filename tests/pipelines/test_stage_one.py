from __future__ import annotations

import logging

import comfy.model_management
import comfy.utils
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from spandrel.architectures.Compact import Compact

from pack.images.degradation import filter_image, gaussian_kernel, jpeg_compress
from pack.images.metrics import ssim
from pack.model_loaders.restoration_network import load_restoration_network
from pack.pipelines.stage_one import remove_degradation
from pack.samplers.tiles import gaussian_weights
from pack.tests.support.golden import assert_close
from pack.tests.support.restoration import (
    descriptor,
    golden_swinir,
    tiny_esrgan,
    tiny_scunet,
    write_realesrgan,
)

pytestmark = pytest.mark.comfy


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def swinir():
    return descriptor(golden_swinir())


@pytest.fixture(scope="module")
def esrgan():
    return descriptor(tiny_esrgan())


@pytest.fixture(scope="module")
def scunet():
    return descriptor(tiny_scunet())


@pytest.fixture(scope="module")
def local():
    """A network of another kind that sees a few pixels around."""
    torch.manual_seed(3)
    return descriptor(Compact(num_feat=8, num_conv=1, upscale=2).state_dict())


def picture(height: int, width: int, batch: int = 1, channels: int = 3) -> torch.Tensor:
    """Return an 8-bit IMAGE with coarse and fine detail."""
    generator = torch.Generator().manual_seed(height * width)
    coarse = torch.rand(batch, channels, 4, 4, generator=generator)
    fine = 0.2 * torch.rand(batch, channels, height, width, generator=generator)
    smooth = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return ((0.8 * smooth + fine) * 255).round().movedim(1, -1) / 255


def planes(image: torch.Tensor) -> torch.Tensor:
    return image.movedim(-1, 1).contiguous()


def enlarged(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Enlarge the first picture as the reference code does with an 8-bit file."""
    pixels = (image[0] * 255).round().to(torch.uint8).numpy()
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].contiguous().float() / 255


def antialiased(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.interpolate(x, (height, width), mode="bicubic", antialias=True, align_corners=False)


def blended(network, x: torch.Tensor, tile: int, stride: int) -> torch.Tensor:
    """Blend tiles in float64 as the reference code's sliding windows do."""
    scale = network.scale
    weights = gaussian_weights(tile * scale, tile * scale)
    height, width = x.shape[-2:]
    starts = [
        sorted({*range(0, length - tile + 1, stride), length - tile}) for length in (height, width)
    ]
    total = torch.zeros(1, 3, height * scale, width * scale, dtype=torch.float64)
    count = torch.zeros_like(total)
    for row in starts[0]:
        for column in starts[1]:
            made = network.model(x[..., row : row + tile, column : column + tile])
            place = (
                ...,
                slice(row * scale, (row + tile) * scale),
                slice(column * scale, (column + tile) * scale),
            )
            total[place] += weights * made
            count[place] += weights
    return (total / count).float()


def test_swinir_whole_resizes_and_pads_before_the_network(swinir):
    image = picture(21, 26)
    made = remove_degradation(swinir, image, scale=2.5)
    x = antialiased(enlarged(image, 52, 65), 512, 640)
    expected = swinir.model(x)
    assert (made.output_width, made.output_height) == (65, 52)
    assert torch.equal(planes(made.image), expected)


def test_swinir_whole_pads_with_black_to_multiples_of_64_and_crops(swinir):
    image = picture(514, 512)
    made = remove_degradation(swinir, image, scale=1.0)
    expected = swinir.model(F.pad(planes(image), (0, 0, 0, 62)))[..., :514, :]
    assert torch.equal(planes(made.image), expected)


def test_swinir_in_tiles_resizes_after_the_network(swinir):
    image = picture(41, 50)
    made = remove_degradation(swinir, image, scale=4.0, tile=128, tile_overlap=64)
    expected = antialiased(blended(swinir, enlarged(image, 164, 200), 128, 64), 512, 624)
    assert (made.output_width, made.output_height) == (200, 164)
    assert_close(planes(made.image), expected, 2e-6)


def test_scunet_resizes_after_the_network(scunet):
    image = picture(21, 26)
    made = remove_degradation(scunet, image, scale=3.3)
    padded = F.pad(enlarged(image, 69, 85), (0, 43, 0, 59), mode="replicate")
    expected = antialiased(scunet.model(padded)[..., :69, :85], 512, 630)
    assert (made.output_width, made.output_height) == (85, 69)
    assert torch.equal(planes(made.image), expected)


@pytest.mark.parametrize(
    ("scale", "target", "size"),
    [
        (4.0, (520, 600), (520, 600)),
        (5.21, (677, 781), (677, 781)),
        # less than 512 is wanted: the network's own size, which is larger, shrinks to 512
        (2.0, (260, 300), (512, 590)),
    ],
)
def test_bsrnet_enlarges_by_itself_and_is_resized_to_the_target(esrgan, scale, target, size):
    image = picture(130, 150)
    made = remove_degradation(esrgan, image, scale=scale)
    expected = esrgan.model(planes(image))
    if size != (520, 600):
        expected = antialiased(expected, *size)
    assert (made.output_height, made.output_width) == target
    assert torch.equal(planes(made.image), expected)


def test_bsrnet_brings_small_pictures_to_512(esrgan):
    image = picture(20, 30)
    made = remove_degradation(esrgan, image, scale=4.0)
    expected = antialiased(esrgan.model(planes(image)), 512, 768)
    assert (made.output_width, made.output_height) == (120, 80)
    assert torch.equal(planes(made.image), expected)


def test_bsrnet_in_tiles_counts_in_pixels_of_the_image(esrgan):
    image = picture(136, 140)
    made = remove_degradation(esrgan, image, scale=4.0, tile=64, tile_overlap=16)
    expected = blended(esrgan, planes(image), 64, 48)
    # sums in float32 against float64, on values up to 20
    assert_close(planes(made.image), expected, 2e-5)


def test_without_rules_the_network_runs_alone(esrgan, scunet):
    image = picture(20, 30)
    assert torch.equal(
        planes(remove_degradation(esrgan, image, rules="none").image), esrgan.model(planes(image))
    )
    made = remove_degradation(scunet, picture(33, 20), scale=2.0, rules="none")
    assert made.image.shape == (1, 33, 20, 3)
    assert (made.output_width, made.output_height) == (40, 66)


def test_auto_takes_the_rules_of_the_network(esrgan, scunet):
    image = picture(20, 24)
    for network, rules in ((esrgan, "BSRNet"), (scunet, "SCUNet")):
        made = remove_degradation(network, image, rules="auto").image
        assert torch.equal(made, remove_degradation(network, image, rules=rules).image)
    torch.manual_seed(4)
    other = descriptor(Compact(num_feat=8, num_conv=1, upscale=1).state_dict())
    made = remove_degradation(other, image, rules="auto").image
    assert torch.equal(made, remove_degradation(other, image, rules="SCUNet").image)
    assert not torch.equal(made, remove_degradation(other, image, rules="SwinIR").image)


def test_a_picture_with_a_side_shorter_than_the_tile_runs_whole(scunet):
    image = picture(40, 90)
    whole = remove_degradation(scunet, image, scale=1.0)
    large = remove_degradation(scunet, image, scale=1.0, tile=64, tile_overlap=32)
    assert torch.equal(whole.image, large.image)


def test_a_long_picture_is_cut_where_memory_is_to_be_bounded(scunet):
    image = picture(70, 300)
    asked = {"scale": 1.0, "tile": 128, "tile_overlap": 64}
    cut = remove_degradation(scunet, image, bounded=True, **asked).image
    smaller = remove_degradation(scunet, image, scale=1.0, tile=64, tile_overlap=32).image
    assert torch.equal(cut, smaller)
    assert not torch.equal(cut, remove_degradation(scunet, image, **asked).image)


def test_a_picture_of_no_more_pixels_than_a_tile_runs_whole_all_the_same(scunet):
    image = picture(70, 200)
    asked = {"scale": 1.0, "tile": 128, "tile_overlap": 64}
    whole = remove_degradation(scunet, image, **asked).image
    assert torch.equal(remove_degradation(scunet, image, bounded=True, **asked).image, whole)


def test_tiles_agree_with_the_whole_picture_of_a_local_network(local):
    image = picture(100, 120)
    whole = remove_degradation(local, image, rules="none").image
    tiled = remove_degradation(local, image, rules="none", tile=64, tile_overlap=32).image
    # only pixels next to a tile's edge differ, where the bell is near zero
    assert not torch.equal(whole, tiled)
    assert (whole - tiled).abs().max() < 0.05 * whole.std()


def test_the_result_may_leave_0_to_1_unless_it_is_clamped(esrgan):
    image = picture(20, 30)
    free = remove_degradation(esrgan, image).image
    assert free.min() < 0
    assert torch.equal(remove_degradation(esrgan, image, clamp=True).image, free.clamp(0, 1))


def test_pictures_of_a_batch_do_not_touch_each_other(esrgan):
    images = picture(20, 30, batch=3)
    together = remove_degradation(esrgan, images).image
    alone = [remove_degradation(esrgan, images[k : k + 1]).image for k in range(3)]
    assert torch.equal(together, torch.cat(alone))
    assert together.device == comfy.model_management.intermediate_device()


def test_alpha_is_dropped_and_grey_repeated(esrgan):
    grey = picture(20, 30, channels=1)
    alpha = torch.rand(1, 20, 30, 1, generator=torch.Generator().manual_seed(3))
    expected = remove_degradation(esrgan, grey.expand(-1, -1, -1, 3)).image
    assert torch.equal(remove_degradation(esrgan, grey).image, expected)
    assert torch.equal(remove_degradation(esrgan, torch.cat([grey, alpha], -1)).image, expected)


@pytest.mark.parametrize("network", ["esrgan", "scunet"])
def test_8_bit_rounds_and_float_does_not(network, request):
    network = request.getfixturevalue(network)
    levels = picture(20, 30)
    between = levels + 0.4 / 255
    rounded = remove_degradation(network, between, scale=2.0).image
    assert torch.equal(rounded, remove_degradation(network, levels, scale=2.0).image)
    precise = remove_degradation(network, between, scale=2.0, resize="float").image
    assert not torch.equal(precise, rounded)
    if network.scale == 1:
        padded = F.pad(antialiased(planes(between), 40, 60), (0, 4, 0, 24), mode="replicate")
        expected = antialiased(network.model(padded)[..., :40, :60], 512, 768)
    else:
        expected = antialiased(network.model(planes(between)), 512, 768)
    assert torch.equal(planes(precise), expected)


def limit_memory(network, pixels: int):
    """Let the network run out of memory on inputs of more pixels, as torch does."""

    def refuse(module, inputs):
        if inputs[0].shape[-2] * inputs[0].shape[-1] > pixels:
            raise torch.OutOfMemoryError("out of memory")

    return network.model.register_forward_pre_hook(refuse)


def test_out_of_memory_goes_on_in_halved_tiles_and_says_so(local, caplog):
    images = picture(300, 340, batch=2)
    expected = remove_degradation(local, images, rules="none", tile=128, tile_overlap=64).image
    hook = limit_memory(local, 128 * 128)
    try:
        with caplog.at_level(logging.INFO, "resshift-diffbir"):
            made = remove_degradation(local, images, rules="none").image
    finally:
        hook.remove()
    assert torch.equal(made, expected)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 2  # the second picture begins with the tile that fitted
    assert "the whole picture; it goes on in tiles of 256" in warnings[0]
    assert "tiles of 256; it goes on in tiles of 128" in warnings[1]


def test_out_of_memory_in_the_least_tile_is_told(local):
    hook = limit_memory(local, 100)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            remove_degradation(local, picture(150, 140), rules="none")
    finally:
        hook.remove()


def test_faults_of_a_network_are_not_taken_for_lack_of_memory(local):
    def fail(module, inputs):
        raise RuntimeError("shapes do not match")

    hook = local.model.register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="shapes do not match"):
            remove_degradation(local, picture(150, 140), rules="none")
    finally:
        hook.remove()


def test_every_call_of_the_network_moves_the_progress_bar(scunet):
    seen = []
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, *_, **__: seen.append((value, total))
    )
    try:
        remove_degradation(scunet, picture(64, 96, batch=2), scale=1.0, tile=64, tile_overlap=32)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    # ComfyUI passes on the first and the last, and of the others what comes slowly enough
    assert (seen[0], seen[-1]) == ((1, 4), (4, 4))
    assert seen == sorted(set(seen))


def test_an_interrupt_ends_it_before_the_next_tile(scunet):
    calls = []

    def stop(module, inputs):
        calls.append(inputs)
        comfy.model_management.interrupt_current_processing()

    hook = scunet.model.register_forward_pre_hook(stop)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            remove_degradation(scunet, picture(64, 160), scale=1.0, tile=64, tile_overlap=32)
    finally:
        hook.remove()
    assert len(calls) == 1


def test_networks_of_our_loader_and_of_an_older_comfyui_give_the_same(tmp_path, esrgan):
    torch.save(tiny_esrgan(), tmp_path / "n.pth")
    ours = load_restoration_network(tmp_path / "n.pth")
    image = picture(20, 30)
    expected = remove_degradation(esrgan, image).image
    assert torch.equal(remove_degradation(ours, image).image, expected)
    assert torch.equal(remove_degradation(ours, image).image, expected)  # loaded already
    assert not hasattr(esrgan, "patcher")
    assert next(esrgan.model.parameters()).device == torch.device("cpu")


def test_a_network_left_in_training_mode_does_not_drop_paths(swinir):
    image = picture(128, 128)
    expected = remove_degradation(swinir, image, rules="none").image
    swinir.train()
    assert torch.equal(remove_degradation(swinir, image, rules="none").image, expected)


def test_a_network_in_half_precision_takes_and_gives_float32():
    half = descriptor(tiny_scunet()).bfloat16()
    image = picture(40, 48)
    made = remove_degradation(half, image, rules="none").image
    assert made.dtype == torch.float32


BAD_INPUTS = {
    "another kind of model": (
        lambda net: (torch.nn.Identity(), picture(8, 8), {}),
        "Load it with 'Load Restoration Network",
    ),
    "rules for a network that keeps the size": (
        lambda net: (net, picture(8, 8), {"rules": "SwinIR"}),
        "Set rules to 'auto' or 'BSRNet'",
    ),
    "unknown rules": (
        lambda net: (net, picture(8, 8), {"rules": "EDSR"}),
        "is one of auto, SwinIR",
    ),
    "a scale that leaves nothing": (
        lambda net: (net, picture(8, 8), {"scale": 0.1}),
        "use a larger one",
    ),
    "an overlap as large as the tile": (
        lambda net: (net, picture(8, 8), {"tile": 64, "tile_overlap": 64}),
        "must be less than 'tile', 64",
    ),
    "an empty batch": (lambda net: (net, torch.zeros(0, 8, 8, 3), {}), "'image' is empty"),
    "pixels that are no numbers": (
        lambda net: (net, torch.full((1, 8, 8, 3), float("nan")), {}),
        "NaN or infinite",
    ),
    "a picture without a batch": (
        lambda net: (net, torch.zeros(8, 8, 3), {}),
        "give it pictures of shape",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_wrong_input_is_refused_with_a_remedy(esrgan, case):
    arguments, remedy = BAD_INPUTS[case]
    network, image, options = arguments(esrgan)
    with pytest.raises(ValueError, match=remedy):
        remove_degradation(network, image, **options)


def test_swinir_takes_tiles_of_multiples_of_64(swinir):
    with pytest.raises(ValueError, match=r"multiples of 64, such as 128"):
        remove_degradation(swinir, picture(8, 8), tile=100, tile_overlap=0)


def gradient_energy(x: torch.Tensor) -> float:
    return (x.diff(dim=-1).square().mean() + x.diff(dim=-2).square().mean()).item()


@pytest.mark.slow
def test_published_weights_restore_a_degraded_photograph(tmp_path):
    import skimage.data

    network = load_restoration_network(write_realesrgan(tmp_path))
    pixels = torch.from_numpy(skimage.data.astronaut()[:384, 64:448].copy())
    original = pixels.permute(2, 0, 1)[None].float() / 255
    small = antialiased(filter_image(original, gaussian_kernel(13, 2.0, 2.0)), 96, 96)
    noise = 6 / 255 * torch.randn(small.shape, generator=torch.Generator().manual_seed(4))
    lq = jpeg_compress(small + noise, 80)

    made = remove_degradation(network, lq.movedim(1, -1), clamp=True)
    assert made.image.shape == (1, 512, 512, 3)
    restored = antialiased(planes(made.image), 384, 384).clamp(0, 1)
    bicubic = antialiased(lq, 384, 384).clamp(0, 1)
    figures = {
        name: (ssim(x, original).item(), gradient_energy(x) / gradient_energy(original))
        for name, x in (("restored", restored), ("bicubic", bicubic))
    }
    # measured: SSIM 0.716 against 0.700, gradient energy 0.97 of the original's against 0.13
    assert figures["restored"][0] > figures["bicubic"][0] + 0.005, figures
    assert 0.7 < figures["restored"][1] < 1.3, figures
    assert figures["bicubic"][1] < 0.2, figures
