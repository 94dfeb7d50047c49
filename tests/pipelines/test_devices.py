"""What only a GPU would show, held on the CPU: waiting for it, and types that some lack."""

from __future__ import annotations

import pytest
import torch

from pack.pipelines.diffbir_conditioning import prepare_diffbir
from pack.pipelines.diffbir_presets import DIFFBIR_PRESETS
from pack.pipelines.diffbir_sampling import sample_diffbir
from pack.pipelines.latent_guidance import LatentGuidance, patch_latent_guidance
from pack.pipelines.noise import PictureSeeds
from pack.pipelines.resshift_conditioning import prepare_resshift
from pack.pipelines.resshift_sampling import sample_resshift
from pack.pipelines.tiles import patch_tiles
from pack.tests.support.diffbir import projection_vae, text, tiny_control_net, tiny_model
from pack.tests.support.guards import HostReads, NoFloat64OnDevice
from pack.tests.support.tiny import picture

pytestmark = pytest.mark.comfy

FEW, MANY = 2, 5


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


def resshift_runs(sr, folder):
    """Yield the ways of sampling ResShift as functions of the steps."""
    model, vae = sr
    inputs = prepare_resshift(model, vae, picture(8, 24))
    guided = patch_latent_guidance(model, inputs.latent, LatentGuidance(scale=0.1, fidelity=0.2))
    for ready in (model, patch_tiles(model, 32, 8), guided):
        yield lambda steps, ready=ready: sample_resshift(
            ready, inputs.positive, inputs.latent, seeds=PictureSeeds(0), steps=steps
        )


def diffbir_runs(sr, folder):
    """Yield the ways of sampling DiffBIR as functions of the steps."""
    model = tiny_model()
    inputs = prepare_diffbir(
        text(1), text(2), tiny_control_net(folder), projection_vae(), picture(64, 128)
    )
    zero_snr = tiny_model("v", zero_snr=True)
    for ready, preset in (
        (model, "v2"),
        (patch_tiles(model, 64, 16, "gaussian"), "v2"),
        (zero_snr, "v2.1"),
    ):
        yield lambda steps, ready=ready, preset=preset: sample_diffbir(
            ready,
            inputs.positive,
            inputs.negative,
            inputs.latent,
            preset=DIFFBIR_PRESETS[preset],
            seeds=PictureSeeds(0),
            steps=steps,
            sampler="spaced",
            guidance=LatentGuidance(scale=0.5),
        )


@pytest.mark.parametrize("runs", [resshift_runs, diffbir_runs])
def test_no_step_of_sampling_waits_for_the_device(sr, tmp_path, runs):
    for run in runs(sr, tmp_path):
        looks = []
        for steps in (FEW, MANY):
            with HostReads() as reads:
                run(steps)
            looks.append(reads.lines)
        assert looks[0] == looks[1], "the host looks into a tensor at every step"


@pytest.mark.parametrize("runs", [resshift_runs, diffbir_runs])
def test_no_float64_reaches_the_device_while_sampling(sr, tmp_path, runs):
    for run in runs(sr, tmp_path):
        with NoFloat64OnDevice():
            run(FEW)
