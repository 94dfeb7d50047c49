"""Every node in a real ComfyUI: registered, executed, and plain about bad input."""

from __future__ import annotations

import ast
import inspect
import json
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

if TYPE_CHECKING:
    from pack.tests.support.running import InProcessComfy

pytestmark = pytest.mark.comfy

PACK_ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted(path.stem for path in (PACK_ROOT / "workflows").glob("*.json"))
# Those of DiffBIR run over HTTP; here the separate nodes do, once.
HERE = [name for name in WORKFLOWS if name in ("diffbir_v2_x4", "restoration_stage1")]
HERE += [name for name in WORKFLOWS if name.startswith("resshift") or name == "face_photo_bundled"]
SCHEMAS = Path(__file__).parent / "schemas.json"


def api_prompt(name: str) -> dict[str, Any]:
    return json.loads((PACK_ROOT / "workflows" / "api" / f"{name}.json").read_text("utf-8"))


def prompt_of(name: str, **changes: dict[str, Any]) -> dict[str, Any]:
    """Return a shipped prompt with inputs of nodes changed, nodes given as n1, n2, ..."""
    prompt = api_prompt(name)
    for node, inputs in changes.items():
        prompt[node[1:]]["inputs"].update(inputs)
    return prompt


def schema_of(node: type) -> dict[str, Any]:
    """Return what saved workflows rely on: ids, input names, types, defaults and choices."""
    info = node.INPUT_TYPES()
    inputs = {
        name: [spec[0] if isinstance(spec[0], str) else "COMBO", spec[1].get("default")]
        for kind in ("required", "optional")
        for name, spec in info.get(kind, {}).items()
    }
    return {"inputs": inputs, "outputs": list(node.RETURN_TYPES), "names": list(node.RETURN_NAMES)}


def test_saved_workflows_keep_their_nodes_inputs_and_defaults(comfy: InProcessComfy):
    from pack.tests.support.running import pack_module

    found = {node.GET_SCHEMA().node_id: schema_of(node) for node in pack_module("nodes").NODES}
    assert found == json.loads(SCHEMAS.read_text("utf-8"))


def test_every_execute_reads_each_input_that_its_schema_declares(comfy: InProcessComfy):
    from pack.tests.support.running import pack_module

    nodes = pack_module("nodes").NODES
    assert len(nodes) > 20
    for node in nodes:
        execute = inspect.unwrap(node.__dict__["execute"].__func__)
        declared = {given.id for given in node.GET_SCHEMA().inputs}
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(execute))).body
        assert isinstance(function, ast.FunctionDef)
        read = {
            name.id
            for part in function.body
            for name in ast.walk(part)
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Load)
        }
        taken = {argument.arg for argument in function.args.args} - {"cls"}
        if function.args.kwarg is None:
            assert taken == declared, node.__name__
        else:  # the rest of the inputs as one
            assert taken < declared, node.__name__
            taken.add(function.args.kwarg.arg)
        assert taken - read == set(), f"{node.__name__} does not read {taken - read}"


def test_every_input_and_node_is_explained(comfy: InProcessComfy):
    from pack.tests.support.running import pack_module

    for node in pack_module("nodes").NODES:
        schema = node.GET_SCHEMA()
        assert schema.description, schema.node_id
        assert schema.search_aliases, schema.node_id
        assert schema.category.startswith("restoration/"), schema.node_id
        for part in schema.inputs:
            assert part.tooltip, f"{schema.node_id}.{part.id}"


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == "face_photo_bundled" else n for n in HERE],
)
def test_a_shipped_workflow_runs_and_saves_a_picture(comfy: InProcessComfy, name: str):
    prompt = api_prompt(name)
    if name == "diffbir_v2_x4":
        prompt["5"]["inputs"]["steps"] = 2
    if prompt["3"]["inputs"]["image"] == "restoration_raccoon.png":  # less to do for stand-ins
        prompt["3"]["inputs"]["image"] = "restoration_coffee.jpg"
    run = comfy.run(prompt)
    assert run.success, run.error
    assert len(run.outputs["8"]["images"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("enlarges", "side"), [(True, 1680), (False, 420)])
def test_faces_of_an_old_photograph_are_restored_at_either_size(
    comfy: InProcessComfy, enlarges: bool, side: int
):
    made = {}
    for has_faces in (True, False):
        prompt = prompt_of(
            "restoration_old_photo",
            n3={"image": "restoration_crew.jpg"},
            n13={"switch": False},
            n17={"switch": enlarges},
            n22={"switch": has_faces},
        )
        run = comfy.run(prompt)
        assert run.success, run.error
        (saved,) = run.outputs["8"]["images"]
        path = comfy.base / "output" / saved["subfolder"] / saved["filename"]
        with Image.open(path) as opened:
            made[has_faces] = np.asarray(opened.convert("RGB")).astype(int)
    assert made[True].shape[1] == side
    changed = (made[True] != made[False]).any(axis=-1)
    assert 0.01 < changed.mean() < 0.15
    assert not changed[2 * changed.shape[0] // 3 :].any()  # below the faces


def test_every_node_is_in_a_shipped_workflow_or_run_here():
    from pack.tests.support.running import pack_module

    shipped = {node["class_type"] for name in WORKFLOWS for node in api_prompt(name).values()}
    alone = {"ResShiftModelSampling", "RestorationColorFix", "RestorationFacePoints"}
    here = {*alone, *STOCK_GRAPH_NODES, *MEASURING_NODES}
    registered = {node.GET_SCHEMA().node_id for node in pack_module("nodes").NODES}
    assert registered <= shipped | here


STOCK_GRAPH_NODES = {
    "DiffBIRDynamicCFG",
    "DiffBIRLatentGuidance",
    "DiffBIRSpacedScheduler",
    "RestorationTiles",
}

# Run by test_measure_nodes.py.
MEASURING_NODES = {
    "RestorationDegrade",
    "RestorationFidelitySweep",
    "RestorationFlicker",
    "RestorationMetrics",
}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def test_the_parts_of_diffbir_go_into_a_stock_graph(comfy: InProcessComfy):
    """Load Checkpoint, Apply ControlNet with its VAE, SamplerCustom, and this pack's patches."""
    prompt = {
        "1": node("CheckpointLoaderSimple", ckpt_name="v2-1_512-ema-pruned.safetensors"),
        "2": node("LAControlNetLoader", control_net_name="v2.pth"),
        "3": node("LoadImage", image="restoration_face.jpg"),
        "4": node(
            "ImageScale",
            image=["3", 0],
            upscale_method="bilinear",
            width=192,
            height=128,
            crop="disabled",
        ),
        "5": node("CLIPTextEncode", clip=["1", 1], text="a portrait"),
        "6": node(
            "ControlNetApplyAdvanced",
            positive=["5", 0],
            negative=["5", 0],
            control_net=["2", 0],
            image=["4", 0],
            vae=["1", 2],
            strength=1.0,
            start_percent=0.0,
            end_percent=1.0,
        ),
        "7": node("VAEEncode", pixels=["4", 0], vae=["1", 2]),
        "8": node("RestorationTiles", model=["1", 0], tile=128, tile_overlap=64, blend="linear"),
        "9": node("DiffBIRDynamicCFG", model=["8", 0]),
        "10": node(
            "DiffBIRLatentGuidance",
            model=["9", 0],
            scale=0.5,
            fidelity=0.1,
            version="v2",
            start_percent=0.0,
            end_percent=1.0,
            space="rgb",
            weighting="edges",
            repeat=1,
            clamp=True,
            image=["4", 0],
            vae=["1", 2],
        ),
        "11": node("DiffBIRSpacedScheduler", model=["1", 0], steps=2),
        "12": node("KSamplerSelect", sampler_name="ddpm"),
        "13": node("EmptyLatentImage", width=192, height=128, batch_size=1),
        "14": node(
            "SamplerCustom",
            model=["10", 0],
            add_noise=True,
            noise_seed=1,
            cfg=4.0,
            positive=["6", 0],
            negative=["6", 1],
            sampler=["12", 0],
            sigmas=["11", 0],
            latent_image=["13", 0],
        ),
        "15": node("VAEDecode", samples=["14", 0], vae=["1", 2]),
        "16": node("SaveImage", images=["15", 0], filename_prefix="stock"),
    }
    run = comfy.run(prompt)
    assert run.success, run.error
    assert len(run.outputs["16"]["images"]) == 1


def test_a_face_at_written_points_is_cut_out_and_put_back(comfy: InProcessComfy):
    points = "60 50 100 50 80 75 65 95 95 95"
    prompt = {
        "1": node("LoadImage", image="restoration_coffee.jpg"),
        "2": node("RestorationFacePoints", image=["1", 0], points=points),
        "3": node(
            "RestorationFaceAlign",
            image=["1", 0],
            faces=["2", 0],
            choice="all",
            index=0,
            least_eye_distance=5.0,
            least_score=0.0,
            size=64,
        ),
        "4": node("ImageInvert", image=["3", 0]),
        "5": node(
            "RestorationFacePaste",
            background=["1", 0],
            places=["3", 1],
            faces=["4", 0],
            strength=1.0,
            mask_kind="face oval",
        ),
        "6": node("SaveImage", images=["5", 0], filename_prefix="points"),
        "7": node("MaskToImage", mask=["5", 1]),
        "8": node("PreviewImage", images=["7", 0]),
    }
    run = comfy.run(prompt)
    assert run.success, run.error
    assert len(run.outputs["6"]["images"]) == 1


def test_own_deblurring_weights_keep_the_size(comfy: InProcessComfy):
    (model,) = comfy.call("ResShiftLoader", "own_deblurring.pth", "deblurring, 4 steps", "fp32")
    (vae,) = comfy.call("ResShiftVAELoader", "autoencoder_vq_f4.pth", "auto")
    image = torch.rand(2, 40, 56, 3, generator=torch.Generator().manual_seed(2))
    (restored,) = comfy.call(
        "ResShiftRestoreImage",
        model,
        vae,
        image,
        0,
        0,
        1.0,
        "none",
        "different per image",
        "per step",
        1024,
        256,
    )
    assert restored.shape == image.shape


def test_sinsr_takes_one_step(comfy: InProcessComfy):
    (model,) = comfy.call("ResShiftLoader", "SinSR_v2.pth", "auto", "fp32")
    (sigmas,) = comfy.call("ResidualShiftScheduler", model, 0, "even")
    assert len(sigmas) == 2
    assert sigmas[0].item() == pytest.approx(99.4975, abs=1e-3)


def test_own_schedules_and_colour_fix_run_in_a_graph(comfy: InProcessComfy):
    prompt = api_prompt("resshift_x4_released")
    prompt["20"] = {
        "class_type": "ResShiftModelSampling",
        "inputs": {
            "model": ["1", 0],
            "steps": 6,
            "kappa": 1.0,
            "min_noise_level": 0.1,
            "etas_end": 0.95,
            "power": 0.5,
            "predict_type": "as loaded",
        },
    }
    prompt["5"]["inputs"]["model"] = ["20", 0]
    prompt["21"] = {
        "class_type": "RestorationColorFix",
        "inputs": {"image": ["7", 0], "reference": ["7", 0], "method": "wavelet"},
    }
    prompt["8"]["inputs"]["images"] = ["21", 0]
    run = comfy.run(prompt)
    assert run.success, run.error


def test_the_advanced_sampler_gives_the_picture_of_the_sampler_node(comfy: InProcessComfy):
    (model,) = comfy.call("ResShiftLoader", "bundled: photo x4", "auto", "fp32")
    (vae,) = comfy.call("ResShiftVAELoader", "bundled: pixel latent x4", "auto")
    image = torch.rand(1, 24, 40, 3, generator=torch.Generator().manual_seed(1))
    positive, _, latent, width, height = comfy.call("ResShiftConditioning", model, vae, image)
    assert (width, height) == (160, 96)
    (ours,) = comfy.call(
        "ResidualShiftSampler", model, positive, latent, 7, 0, 1.0, "different per image"
    )
    (sampler,) = comfy.call("ResidualShiftSamplerSelect", 1.0, "different per image")
    (sigmas,) = comfy.call("ResidualShiftScheduler", model, 0, "even")
    from comfy_extras.nodes_custom_sampler import Guider_Basic, Noise_RandomNoise

    guider = Guider_Basic(model)
    guider.set_conds(positive)
    with torch.inference_mode():
        noise = Noise_RandomNoise(7).generate_noise(latent)
        stock = guider.sample(noise, latent["samples"], sampler, sigmas, seed=7)
    assert torch.equal(ours["samples"], stock)


BAD_INPUTS = {
    "a ResShift model in DiffBIR's sampler": (
        prompt_of("diffbir_v2_x4", n5={"model": ["30", 0]})
        | {"30": api_prompt("resshift_x4_bundled")["1"]},
        "DiffBIR works on Stable Diffusion 2.1",
    ),
    "a restoration network in the control loader's place": (
        prompt_of("diffbir_v2_x4", n2={"control_net_name": "not_a_control.pth"}),
        "is not a LAControlNet",
    ),
    "a control branch in the restoration loader's place": (
        prompt_of("diffbir_v2_x4", n9={"model_name": "not_a_network.pth"}),
        "Load LAControlNet",
    ),
    "a preset of another task": (
        prompt_of("resshift_x4_released", n1={"preset": "inpainting, 4 steps"}),
        "choose the model's right preset",
    ),
    "the VAE of another model": (
        prompt_of("resshift_x4_bundled", n2={"vae_name": "autoencoder_vq_f4.pth"}),
        "Load 'bundled: pixel latent x4' with 'Load ResShift VAE'",
    ),
    "a mask for a model that takes none": (
        prompt_of("resshift_x4_bundled", n5={"mask": ["mask", 0]})
        | {"mask": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 8, "height": 8}}},
        "connect the mask to 'Finish Restoration'",
    ),
    "no mask for a model that fills holes": (
        prompt_of("resshift_x4_released", n1={"model_name": "resshift_inpainting_imagenet_s4.pth"}),
        "connect a mask",
    ),
    "an autoencoder in the model loader": (
        prompt_of("resshift_x4_bundled", n1={"model_name": "not_a_model.safetensors"}),
        "load it with Load ResShift VAE",
    ),
    "an unnamed file without a record": (
        prompt_of("resshift_x4_bundled", n1={"model_name": "renamed.safetensors"}),
        "Set preset to one of",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_wrong_use_says_what_to_do(comfy: InProcessComfy, case: str):
    from safetensors.torch import save_file

    from pack.tests.support.tiny import random_unet_weights, random_vq_weights

    models = comfy.base / "models" / "diffusion_models"
    save_file(random_vq_weights(), models / "not_a_model.safetensors")
    save_file(random_unet_weights(), models / "renamed.safetensors")
    folders = comfy.base / "models"
    shutil.copy(
        folders / "upscale_models" / "BSRNet.pth", folders / "controlnet" / "not_a_control.pth"
    )
    shutil.copy(folders / "controlnet" / "v2.pth", folders / "upscale_models" / "not_a_network.pth")
    prompt, remedy = BAD_INPUTS[case]
    run = comfy.run(prompt)
    assert not run.success
    assert remedy in run.error
    clean = comfy.run(api_prompt("resshift_x4_bundled"))
    assert clean.success, clean.error


def test_the_resshift_sampler_refuses_another_kind_of_model(comfy: InProcessComfy):
    (model,) = comfy.call("ResShiftLoader", "bundled: photo x4", "auto", "fp32")
    stranger = model.clone()
    stranger.model = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"^Residual Shift Sampler: .*Load ResShift Model"):
        comfy.call("ResidualShiftSampler", stranger, [], {}, 0, 0, 1.0, "different per image")


def test_a_plain_text_conditioning_is_refused(comfy: InProcessComfy):
    (model,) = comfy.call("ResShiftLoader", "bundled: photo x4", "auto", "fp32")
    latent = {"samples": torch.zeros(1, 48, 8, 8)}
    text = [[torch.zeros(1, 77, 1024), {}]]
    with pytest.raises(ValueError, match="Connect positive and negative of the node"):
        comfy.call("ResidualShiftSampler", model, text, latent, 0, 0, 1.0, "different per image")


def test_every_node_has_a_help_page(comfy: InProcessComfy):
    from pack.tests.support.running import pack_module

    for node in pack_module("nodes").NODES:
        schema = node.GET_SCHEMA()
        page = (PACK_ROOT / "web" / "docs" / f"{schema.node_id}.md").read_text("utf-8")
        assert page.startswith(f"# {schema.display_name}\n")


def test_finished_pictures_lose_nothing_where_save_image_truncates(comfy: InProcessComfy):
    from pack.tests.support.tiny import picture

    image = picture(8, 8)
    finish = (image, 0, 0, "none", 0, 0)
    (finished,) = comfy.call("RestorationFinish", *finish)
    assert torch.equal((finished * 255).floor(), (image * 255).round())
    model, vae = (
        comfy.call(node, name, *rest)[0]
        for node, name, *rest in (
            ("ResShiftLoader", "bundled: photo x4", "auto", "fp32"),
            ("ResShiftVAELoader", "bundled: pixel latent x4"),
        )
    )
    options = (0, 1, 1.0, "none", "different per image", "off", 64, 16)
    (restored,) = comfy.call("ResShiftRestoreImage", model, vae, image, *options)
    assert torch.equal((restored * 255).floor(), (restored * 255).round())


@pytest.mark.parametrize("scheduler", ["simple", "normal", "karras"])
def test_differential_diffusion_keeps_what_lies_under_mask_0(comfy: InProcessComfy, scheduler: str):
    from pack.tests.support.graph import Graph, bundled, ksampler, output, resshift_conditioning
    from pack.tests.support.tiny import picture

    graph = Graph(comfy)
    model, vae = bundled(graph, "fp32")
    conditioning = resshift_conditioning(graph, model, vae, picture(16, 32))
    mask = torch.zeros(1, 64, 128)
    mask[..., 64:] = torch.linspace(0, 1, 64)
    masked = graph(
        "SetLatentNoiseMask", samples=output(conditioning, 2), mask=graph.give("MASK", mask)
    )
    model = graph("DifferentialDiffusion", model=model, strength=1.0)
    made = ksampler(graph, model, conditioning, latent_image=masked, scheduler=scheduler)
    before, after = graph.run(latent=output(conditioning, 2), made=made)
    moved = (after["samples"] - before["samples"]).abs()
    half = moved.shape[-1] // 2 - 1  # the mask is reduced with its neighbours
    assert moved[..., :half].max() < 1e-6  # rounding of adding and taking away the noise
    assert moved[..., half + 2 :].max() > 0.01
