"""What finds the motion: the pack's own, OpenCV's, a model of ComfyUI's loader."""

from __future__ import annotations

from importlib.util import find_spec

import comfy.model_patcher
import pytest
import torch
from torch import Tensor

from pack.benchmarks.clips import moved_clip, workflow_picture
from pack.images.flow import estimate_flow
from pack.pipelines.flow import FLOW_METHODS, check_flow_method, find_flow

pytestmark = pytest.mark.comfy

CLIP = moved_clip(
    workflow_picture("restoration_crew.jpg"), (75, 130), 2, shift=(3, -2), reduction=0.6
)
PAIR = CLIP.frames[1:], CLIP.frames[:1]


class Everywhere(torch.nn.Module):
    """An optical flow network that finds the same motion everywhere, in ever better guesses."""

    def __init__(self):
        super().__init__()
        self.motion = torch.nn.Parameter(torch.tensor([4.0, -2.0]))
        self.seen: list[Tensor] = []

    def forward(self, one: Tensor, other: Tensor) -> list[Tensor]:
        self.seen = [one, other]
        flow = self.motion.view(1, 2, 1, 1).expand(len(one), 2, *one.shape[-2:])
        return [torch.zeros_like(flow), flow]


def model_of(network: torch.nn.Module) -> comfy.model_patcher.ModelPatcher:
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(network, load_device=cpu, offload_device=cpu)


def test_without_a_model_the_packs_own_method_finds_it():
    assert torch.equal(find_flow(*PAIR), estimate_flow(*PAIR))


@pytest.mark.skipif(find_spec("cv2") is None, reason="OpenCV is not installed")
def test_opencv_finds_the_same_motion():
    found = find_flow(*PAIR, "DIS (OpenCV)")
    assert found.dtype == torch.float32
    errors = (found - CLIP.backward).norm(dim=1, keepdim=True)[CLIP.shown == 1]
    assert errors.median() < 0.3


def test_a_missing_opencv_and_an_unknown_method_say_what_to_do(monkeypatch):
    monkeypatch.setattr("pack.pipelines.flow.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install opencv-python-headless.*'Lucas-Kanade'"):
        check_flow_method("DIS (OpenCV)")
    with pytest.raises(ValueError, match=f"choose one of {FLOW_METHODS[0]}"):
        check_flow_method("guess")


def test_a_model_sees_what_it_can_divide_and_its_flow_comes_back_in_pixels():
    network = Everywhere()
    flow = find_flow(*PAIR, optical_flow=model_of(network))
    # 75x130 becomes 128x136: RAFT divides by 8 and needs 128 pixels.
    assert [tuple(seen.shape) for seen in network.seen] == [(1, 3, 128, 136)] * 2
    assert network.seen[0].amin() < -0.5
    assert torch.allclose(flow[:, 0], torch.tensor(4 * 130 / 136))
    assert torch.allclose(flow[:, 1], torch.tensor(-2 * 75 / 128))
    assert flow.shape == (1, 2, 75, 130)


@pytest.mark.slow
def test_torchvisions_raft_runs():
    from torchvision.models.optical_flow import raft_large

    torch.manual_seed(0)
    flow = find_flow(*PAIR, optical_flow=model_of(raft_large(weights=None, progress=False).eval()))
    assert flow.shape == (1, 2, 75, 130)
    assert not flow.requires_grad


def test_another_object_is_refused():
    with pytest.raises(ValueError, match=r"'optical_flow' is dict.*Load Optical Flow Model"):
        find_flow(*PAIR, optical_flow={})
