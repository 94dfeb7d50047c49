"""Writing pictures; what Save Image writes itself is compared in test_restorer."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pack.folders.job import Encoding
from pack.folders.pictures import read_metadata, to_bytes, write_picture

PNG = Encoding("png", 92, False)


def test_values_are_cut_off_and_rounded_down_as_save_image_does():
    values = np.array([[[-1.0, 0.0, 0.5], [0.9999, 1.0, 2.0]]])
    assert to_bytes(values).tolist() == [[[0, 0, 127], [254, 255, 255]]]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_grey_colour_and_transparency_are_written(tmp_path, channels, mode):
    image = np.random.default_rng(0).random((4, 6, channels))
    write_picture(image, tmp_path / "a.png", PNG, None, {})
    with Image.open(tmp_path / "a.png") as written:
        assert (written.mode, written.size) == (mode, (6, 4))
        assert np.array_equal(np.asarray(written).reshape(image.shape), to_bytes(image))
        assert "prompt" not in written.info


def test_jpeg_refuses_transparency_with_a_remedy(tmp_path):
    with pytest.raises(ValueError, match="--format png or webp"):
        write_picture(np.zeros((4, 4, 4)), tmp_path / "a.jpg", Encoding("jpg", 92, False), None, {})


@pytest.mark.parametrize("name", ["jpg", "webp"])
def test_a_higher_quality_gives_a_larger_file(tmp_path, name):
    image = np.random.default_rng(0).random((32, 32, 3))
    for quality in (10, 95):
        file = tmp_path / f"{quality}.{name}"
        write_picture(image, file, Encoding(name, quality, False), None, {})
    assert (tmp_path / f"10.{name}").stat().st_size < (tmp_path / f"95.{name}").stat().st_size


def profile_of(colors: bytes) -> bytes:
    return bytes(16) + colors + bytes(108)


def test_metadata_is_read_without_the_orientation_that_loading_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", exif=exif, icc_profile=b"profile")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    kept = read_metadata(tmp_path / "a.jpg")
    assert (dict(kept["exif"]), kept["icc_profile"]) == ({0x010F: "a camera"}, b"profile")
    assert read_metadata(tmp_path / "b.png") == {}


def test_of_a_file_that_pillow_does_not_know_nothing_is_told(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"no picture of Pillow's")
    assert read_metadata(tmp_path / "a.raw") == {}


@pytest.mark.parametrize("name", ["png", "jpg", "webp"])
def test_a_scan_keeps_what_tells_of_the_picture_and_not_how_its_file_is_built(tmp_path, name):
    exif = Image.Exif()
    exif[0x010F], exif[0x8649], exif[0x935C] = "a scanner", bytes(9), bytes(200_000)
    exif[0x010E] = "a line for every plane\n" * 4000
    exif.get_ifd(0x8769).update({0x829A: 0.25, 0xA002: 12, 0xA003: 8})
    exif.get_ifd(0x8825)[0x0001] = "N"
    exif[0x8769] = exif[0x8825] = 0  # that they are there, for Pillow's TIFF
    Image.new("RGB", (12, 8)).save(tmp_path / "a.tif", exif=exif)
    kept = read_metadata(tmp_path / "a.tif")
    write_picture(
        np.zeros((32, 48, 3)), tmp_path / f"b.{name}", Encoding(name, 92, True), None, kept
    )
    with Image.open(tmp_path / f"b.{name}") as written:
        found = written.getexif()
        assert set(found) - {0x8769, 0x8825, 0x010E} <= {0x010F, 0x011A, 0x011B, 0x0128}
        assert (0x010E in found) == (name != "jpg")
        assert found[0x010F] == "a scanner"
        assert dict(found.get_ifd(0x8769)) == {0x829A: 0.25}
        assert found.get_ifd(0x8825)[0x0001] == "N"


@pytest.mark.parametrize(
    ("colors", "channels", "stays"),
    [
        (b"RGB ", 3, True),
        (b"RGB ", 4, True),
        (b"RGB ", 1, False),
        (b"GRAY", 1, True),
        (b"GRAY", 3, False),
        (b"CMYK", 3, False),
    ],
)
def test_a_profile_stays_with_a_picture_of_its_colours(tmp_path, colors, channels, stays):
    kept = {"icc_profile": profile_of(colors)}
    write_picture(np.zeros((4, 4, channels)), tmp_path / "a.png", PNG, None, kept)
    with Image.open(tmp_path / "a.png") as written:
        assert ("icc_profile" in written.info) == stays
