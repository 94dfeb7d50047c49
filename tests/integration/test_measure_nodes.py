"""Degrade, measure and compare in a real ComfyUI."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from pack.tests.support.running import InProcessComfy

pytestmark = pytest.mark.comfy

RANGES = ("blur", "reduction", "noise", "poisson", "jpeg")


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def degrade_node(**changes: Any) -> dict[str, Any]:
    ends = {
        f"{stage}{name}_{end}": -1
        for stage in ("", "second_")
        for name in RANGES
        for end in ("min", "max")
    }
    settings = {
        "image": ["1", 0],
        "method": "one round, medium",
        "seed": 3,
        "scale": 4,
        "keep_size": True,
    }
    return node("RestorationDegrade", **{**settings, **ends, **changes})


def measure_prompt(**changes: Any) -> dict[str, Any]:
    """Return a prompt that degrades a picture, measures it and shows it beside the original."""
    return {
        "1": node("LoadImage", image="restoration_coffee.jpg"),
        "2": degrade_node(**changes),
        "3": node(
            "RestorationMetrics",
            image=["2", 0],
            reference=["1", 0],
            border=4,
            luma="full range",
            perceptual="none",
        ),
        "4": node(
            "RestorationFidelitySweep",
            **{"images.image0": ["1", 0], "images.image1": ["2", 0]},
            labels="original\ndegraded",
            columns=0,
            label_height=24,
        ),
        "5": node("SaveImage", images=["4", 0], filename_prefix="measured"),
        "6": node("PreviewAny", source=["3", 0]),
    }


def test_a_workflow_makes_its_own_test_and_shows_the_figures(comfy: InProcessComfy):
    run = comfy.run(measure_prompt())
    assert run.success, run.error
    assert len(run.outputs["5"]["images"]) == 1
    (report,) = run.outputs["3"]["text"]
    assert report.startswith("| picture | PSNR Y |")
    assert run.outputs["6"]["text"] == [report]


def test_a_wrong_range_says_what_to_do_in_the_name_of_its_node(comfy: InProcessComfy):
    run = comfy.run(measure_prompt(blur_min=3, blur_max=2))
    assert not run.success
    assert "Restoration Degrade: 'blur_min' is 3, which is more than 'blur_max', 2" in run.error


def test_pictures_of_two_sizes_are_refused(comfy: InProcessComfy):
    run = comfy.run(measure_prompt(keep_size=False))
    assert not run.success
    assert "Restoration Metrics: 'image' is" in run.error
    assert "resize one to the size of the other" in run.error


def test_the_figures_come_out_as_numbers(comfy: InProcessComfy):
    image = torch.rand(2, 24, 24, 3, generator=torch.Generator().manual_seed(0))
    results = comfy.call("RestorationMetrics", image, image, 0, "full range", "none")
    assert results[1:6] == (float("inf"), pytest.approx(1), float("inf"), pytest.approx(1), 0)
    assert math.isnan(results[6])  # too small for NIQE


def test_a_grid_takes_its_images_in_the_order_of_their_numbers(comfy: InProcessComfy):
    numbers = [10, 2, 0, 1, 9, 3, 4, 5, 6, 7, 8]
    images = {f"image{k}": torch.full((1, 4, 4, 3), k / 10) for k in numbers}
    (grid,) = comfy.call("RestorationFidelitySweep", images, "", 0, 0)
    torch.testing.assert_close(grid[0, 0, ::12, 0], torch.arange(11) / 10)


def test_the_flicker_of_a_batch_is_shown_and_given_out(comfy: InProcessComfy):
    prompt = {
        "1": node("LoadImage", image="restoration_coffee.jpg"),
        "2": node("LoadImage", image="restoration_coffee.jpg"),
        "3": node("ImageBatch", image1=["1", 0], image2=["2", 0]),
        "4": node("ImageScaleBy", image=["3", 0], upscale_method="bicubic", scale_by=2.0),
        "5": node("RestorationFlicker", image=["4", 0], method="Lucas-Kanade", reference=["3", 0]),
        "6": node("PreviewAny", source=["5", 4]),
    }
    run = comfy.run(prompt)
    assert run.success, run.error
    (report,) = run.outputs["5"]["text"]
    assert report.startswith("| frames |    error | reference | ratio | trusted |")
    assert "by Lucas-Kanade" in report
    assert run.outputs["6"]["text"] == ["1.0"]


def test_one_frame_has_no_flicker(comfy: InProcessComfy):
    prompt = {
        "1": node("LoadImage", image="restoration_coffee.jpg"),
        "2": node("RestorationFlicker", image=["1", 0], method="Lucas-Kanade"),
    }
    run = comfy.run(prompt)
    assert not run.success
    assert "Restoration Flicker: 'image' has one frame" in run.error
