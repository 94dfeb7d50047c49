"""The demonstration of the README, on a real ComfyUI server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    from pack.tests.support.comfy_client import Server

pytestmark = pytest.mark.comfy


def gradient_energy(picture: Image.Image) -> float:
    luma = np.asarray(picture.convert("L"), dtype=float)
    return float((np.diff(luma) ** 2).mean() + (np.diff(luma, axis=0) ** 2).mean())


def test_the_demonstration_shows_the_restored_picture_beside_its_enlargement(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from pack.benchmarks.demo import run_demo

    run_demo(server.url, tmp_path)
    said = capsys.readouterr().out
    assert "256x192 -> 1024x768, 1 step" in said
    enlarged, restored = (float(found) for found in re.findall(r"SSIM ([\d.]+)", said))
    assert restored > enlarged + 0.01
    low_quality, picture = (Image.open(tmp_path / f"{name}.png") for name in ("input", "restored"))
    before = low_quality.resize(picture.size, Image.Resampling.BICUBIC)
    assert gradient_energy(picture) > 1.5 * gradient_energy(before)
    with Image.open(tmp_path / "comparison.png") as sheet:
        shown = sheet.crop((1032, 44, 2056, 812))
    assert np.array_equal(np.asarray(shown.convert("RGB")), np.asarray(picture.convert("RGB")))
