from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.comfy


def write(folder: Path, name: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return pixels


def test_pieces_of_two_folders_are_paired_by_name(tmp_path: Path):
    from pack.pipelines.pairs import crops_of_folders

    clean, degraded = tmp_path / "clean", tmp_path / "degraded"
    for k, name in enumerate(("b", "a", "c")):
        pixels = write(clean, f"{name}.png", 32, 48, seed=k)
        degraded.mkdir(exist_ok=True)
        Image.fromarray(pixels[::4, ::4]).save(degraded / f"{name}.bmp")
    (clean / "notes.txt").write_text("no picture")
    pieces, low = crops_of_folders(clean, degraded, 6, 16, 4, seed=1)
    assert pieces.shape == (6, 16, 16, 3)
    assert low.shape == (6, 4, 4, 3)
    for piece, small in zip(pieces, low, strict=True):
        assert torch.equal(piece[::4, ::4], small) or torch.equal(piece[::4, 3::4], small)


def test_without_a_second_folder_pieces_are_reduced(tmp_path: Path):
    from pack.pipelines.pairs import crops_of_folders

    write(tmp_path, "one.png", 40, 40)
    pieces, low = crops_of_folders(tmp_path, None, 2, 16, 2, seed=1)
    assert low.shape == (2, 8, 8, 3)
    assert low.mean().item() == pytest.approx(pieces.mean().item(), abs=0.02)
    again, _ = crops_of_folders(tmp_path, None, 2, 16, 2, seed=1)
    assert torch.equal(again, pieces)


def test_grey_of_16_bits_keeps_its_levels(tmp_path: Path):
    from pack.pipelines.pairs import crops_of_folders

    Image.fromarray(np.full((16, 16), 30000, np.uint16)).save(tmp_path / "scan.png")
    pieces, _ = crops_of_folders(tmp_path, None, 1, 16, 1, seed=0)
    torch.testing.assert_close(pieces, torch.full((1, 16, 16, 3), 30000 / 65535))


def test_a_picture_lies_as_it_is_seen(tmp_path: Path):
    from pack.pipelines.pairs import crops_of_folders

    clean, degraded = tmp_path / "clean", tmp_path / "degraded"
    pixels = write(clean, "one.png", 16, 32)
    write(degraded, "one.png", 4, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    for folder in (clean, degraded):
        with Image.open(folder / "one.png") as opened:
            opened.load()
        opened.save(folder / "one.png", exif=exif)
    pieces, _ = crops_of_folders(clean, degraded, 4, 16, 4, seed=0)
    seen = torch.from_numpy(np.rot90(pixels, -1).copy()).float() / 255  # (32, 16, 3)
    rows = [seen[top : top + 16] for top in range(17)]
    for piece in pieces:
        assert any(torch.equal(piece, row) or torch.equal(piece, row.flip(1)) for row in rows)


def test_a_broken_picture_is_named(tmp_path: Path):
    from pack.pipelines.pairs import crops_of_folders

    write(tmp_path, "whole.png", 16, 16)
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    (tmp_path / "text.jpg").write_text("no picture")
    for name in ("half.png", "text.jpg"):
        with pytest.raises(
            ValueError, match=f"'{name}' cannot be read .* take it out of the folder"
        ):
            crops_of_folders(tmp_path, None, 1, 16, 1, seed=0)
        (tmp_path / name).unlink()
    crops_of_folders(tmp_path, None, 1, 16, 1, seed=0)


def test_two_pictures_of_one_name_are_refused(tmp_path: Path):
    from pack.pipelines.pairs import crops_of_folders

    for name in ("one.png", "one.bmp"):
        write(tmp_path, name, 16, 16)
    with pytest.raises(ValueError, match=r"holds 'one\.bmp' and 'one\.png'.* rename one"):
        crops_of_folders(tmp_path, None, 1, 16, 1, seed=0)


@pytest.mark.parametrize(
    ("height", "side", "scale", "low_name", "low_side", "says"),
    [
        (32, 15, 4, "one.png", 8, "'crop' is 15 and no multiple of 'scale', 4; take 12 or 16"),
        (32, 64, 4, "one.png", 8, "'one' is 32x32, smaller than a piece of 64x64"),
        (32, 16, 4, "other.png", 8, "2 pictures are in one of the two folders only, such as 'one'"),
        (32, 16, 4, "one.png", 9, "the degraded 'one' is 9x9 and must be 8x8"),
        (32, 16, 4, "one.txt", 8, "the folder 'degraded' holds no pictures"),
    ],
)
def test_folders_that_do_not_fit_are_refused(
    tmp_path: Path, height, side, scale, low_name, low_side, says
):
    from pack.pipelines.pairs import crops_of_folders

    clean, degraded = tmp_path / "clean", tmp_path / "degraded"
    write(clean, "one.png", height, height)
    write(degraded, "picture.png", low_side, low_side)
    (degraded / "picture.png").rename(degraded / low_name)
    with pytest.raises(ValueError, match=says):
        crops_of_folders(clean, degraded, 2, side, scale, seed=0)


def test_strengths_are_mixed_as_asked():
    from pack.images.damage import DAMAGES
    from pack.pipelines.damage import draw_strengths

    asked = {"grain": 0.5, "fading": 0.8}
    generators = [np.random.default_rng(seed) for seed in range(20)]
    assert draw_strengths(asked, "all, as set", generators[0]) == asked
    for generator in generators:
        drawn = draw_strengths(asked, "all, up to what is set", generator)
        assert drawn.keys() == set(DAMAGES)
        assert all(0 <= drawn[name] <= asked.get(name, 0) for name in DAMAGES)
    alone = [draw_strengths(asked, "one at random", generator) for generator in generators]
    assert {tuple(one.items()) for one in alone} == {(("grain", 0.5),), (("fading", 0.8),)}
    assert draw_strengths({}, "one at random", generators[0]) == {}


def test_every_picture_of_a_batch_is_damaged_by_its_own_seed():
    from pack.pipelines.damage import damage_image

    image = torch.rand(1, 32, 48, 3).expand(3, -1, -1, -1)
    made, where = damage_image(image, {"grain": 0.5, "scratches": 1.0}, "all, as set", 4)
    assert made.shape == (3, 32, 48, 3)
    assert where.shape == (3, 32, 48)
    assert not torch.equal(made[0], made[1])
    later, _ = damage_image(image[:1], {"grain": 0.5, "scratches": 1.0}, "all, as set", 5)
    assert torch.equal(later[0], made[1])


def test_a_frame_too_large_for_mpeg_4_is_told():
    from pack.images.damage import LONGEST_FRAME_PX
    from pack.pipelines.damage import damage_image

    for length in (LONGEST_FRAME_PX, LONGEST_FRAME_PX + 1):
        image = torch.rand(1, 16, length, 3)
        if length == LONGEST_FRAME_PX:
            made, _ = damage_image(image, {"video_compression": 0.5}, "all, as set", 4)
            assert made.shape == image.shape
            continue
        with pytest.raises(ValueError, match=r"8191x16.*'video_compression' to 0"):
            damage_image(image, {"video_compression": 0.5}, "all, as set", 4)
        assert damage_image(image, {"grain": 0.5}, "all, as set", 4)[0].shape == image.shape


@pytest.mark.parametrize("stretching", ["each channel", "brightness"])
def test_what_transparency_hides_does_not_decide_the_levels(stretching):
    from pack.pipelines.damage import correct_levels

    image = torch.cat([0.3 + 0.4 * torch.rand(1, 32, 32, 3), torch.ones(1, 32, 32, 1)], dim=-1)
    cut_out = image.clone()
    cut_out[:, :, :8] = 0
    found = correct_levels(cut_out, 1.0, stretching, 0.0)
    visible = correct_levels(image[:, :, 8:], 1.0, stretching, 0.0)
    assert torch.allclose(found[:, :, 8:], visible, atol=1e-6)


def test_alpha_is_kept_by_auto_levels():
    from pack.pipelines.damage import correct_levels

    image = torch.rand(2, 8, 8, 4) * 0.5
    made = correct_levels(image, 1.0, "each channel", 0.0)
    assert torch.equal(made[..., 3], image[..., 3])
    assert made[..., :3].amax() == 1
