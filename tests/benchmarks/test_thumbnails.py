"""The sample picture and the thumbnails; what shows a result is made by hand, with the bundled model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.comfy

PACK_ROOT = Path(__file__).resolve().parents[2]
INPUTS = PACK_ROOT / "workflows" / "inputs"


def test_every_thumbnail_belongs_to_a_workflow():
    from pack.benchmarks.thumbnail_pictures import THUMBNAILS

    assert THUMBNAILS.keys() <= {path.stem for path in (PACK_ROOT / "workflows").glob("*.json")}


@pytest.mark.parametrize("name", ["diffbir_text", "video_diffbir", "restoration_old_photo"])
def test_a_thumbnail_is_a_square_picture(tmp_path: Path, name: str):
    from pack.benchmarks.thumbnail_pictures import SIDE, write_thumbnails

    written = write_thumbnails(tmp_path, tmp_path, [name])
    file = tmp_path / f"{name}.jpg"
    assert written == {name: file.stat().st_size}
    with Image.open(file) as opened:
        assert opened.size == (SIDE, SIDE)
        assert np.asarray(opened).std() > 10


def test_halves_show_one_picture_left_of_the_line_and_another_right_of_it():
    from pack.benchmarks.thumbnail_pictures import halves

    dark, light = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5)
    row = np.asarray(halves(dark, light, (0, 0, 8, 8)))[200, :, 0].tolist()
    assert (row[0], row[198], row[200], row[202], row[399]) == (0, 0, 255, 128, 128)


def test_the_sample_is_what_restoration_degrade_makes_of_its_original():
    from pack.pipelines.degrade import degrade_image

    original, sample = (
        torch.from_numpy(np.array(Image.open(INPUTS / name).convert("RGB")))[None].float() / 255
        for name in ("restoration_raccoon_original.jpg", "restoration_raccoon.png")
    )
    made = degrade_image(original, "one round, medium", 1, 4)
    assert made.shape == sample.shape
    # Other builds of libjpeg round otherwise.
    assert float((made - sample).abs().mean()) < 1 / 255
