"""What ComfyUI offers for a MODEL, a VAE or a CONTROL_NET, on ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from pack.tests.support.running import InProcessComfy

# Older versions have neither dynamic memory nor these nodes.
pytestmark = [
    pytest.mark.comfy,
    pytest.mark.skipif(os.environ.get("PACK_LOWEST") == "1", reason="made for the newest ComfyUI"),
]

CPU = torch.device("cpu")


@contextmanager
def dynamic_memory() -> Iterator[None]:
    """Give ComfyUI the classes it has where memory is dynamic: they refuse what must stay loaded."""
    import comfy.model_patcher

    class Dynamic(comfy.model_patcher.ModelPatcher):
        def is_dynamic(self) -> bool:
            return True

        def load(self, *args: Any, **kwargs: Any) -> None:
            super().load(*args, **kwargs)
            for module in self.model.modules():
                if hasattr(module, "comfy_cast_weights"):  # weights keep the file's dtype
                    module.comfy_cast_weights = True

        def set_in_use_by_current_prompt(self, in_use: bool) -> None:
            pass

        def get_non_dynamic_delegate(self) -> Any:
            return self.clone(disable_dynamic=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.model_patcher, "CoreModelPatcher", Dynamic)
        yield


def sampled(comfy: InProcessComfy, change: Any = None, dtype: str = "fp32", **inputs: Any) -> Any:
    """Return the latent of two steps of the bundled MODEL, changed by nodes."""
    from pack.tests.support.graph import Graph, bundled, ksampler, output, resshift_conditioning
    from pack.tests.support.tiny import picture

    graph = Graph(comfy)
    model, vae = bundled(graph, dtype)
    conditioning = resshift_conditioning(graph, model, vae, picture(16, 16))
    latent = output(conditioning, 2)
    if change is not None:
        model, conditioning = change(graph, model, conditioning)
    inputs = {"latent_image": latent, **inputs}
    return graph.run(latent=ksampler(graph, model, conditioning, **inputs))["samples"]


def patchers(graph: Any) -> dict[str, Any]:
    from pack.tests.support.graph import bundled

    model, vae = bundled(graph)
    links = {
        "bundled_model": model,
        "bundled_vae": vae,
        "model": graph(
            "ResShiftLoader",
            model_name="resshift_realsrx4_s4_v3.pth",
            preset="auto",
            dtype="auto",
        ),
        "vae": graph("ResShiftVAELoader", vae_name="autoencoder_vq_f4.pth"),
        "control_net": graph("LAControlNetLoader", control_net_name="v2.pth"),
        "upscale_model": graph("SwinIRLoader", model_name="BSRNet.pth"),
    }
    found = dict(zip(links, graph.run(**links), strict=True))
    found["control_net"] = found["control_net"].control_model_wrapped
    return {name: getattr(value, "patcher", value) for name, value in found.items()}


def test_comfyui_can_load_every_network_anew(comfy: InProcessComfy):
    from pack.tests.support.graph import Graph

    with dynamic_memory():
        found = {
            name: (patcher, patcher.clone(disable_dynamic=True))
            for name, patcher in patchers(Graph(comfy)).items()
        }
    for name, (patcher, fresh) in found.items():
        assert patcher.is_dynamic(), name
        assert not fresh.is_dynamic(), name
        elsewhere = patcher.deepclone_multigpu(new_load_device=CPU)
        for other in (fresh, elsewhere):
            assert other.model is not patcher.model, name
            state = other.model.state_dict()
            for key, weight in patcher.model.state_dict().items():
                assert torch.equal(state[key].float(), weight.float()), f"{name}: {key}"


def test_a_merged_and_patched_model_loads_anew_with_its_patches(comfy: InProcessComfy):
    from pack.tests.support.graph import Graph, bundled

    graph = Graph(comfy)
    model, _ = bundled(graph, "bf16")
    other = graph("ResShiftLoader", model_name="bundled: photo x4", preset="auto", dtype="bf16")
    merged = graph("ModelMergeAdd", model1=model, model2=other)
    tiled = graph(
        "RestorationTiles",
        model=merged,
        **{"tile": 64, "tile_overlap": 16, "blend": "linear", "tile_choice": "fixed"},
    )
    with dynamic_memory():
        patched = graph.run(model=tiled)
        fresh = patched.clone(disable_dynamic=True)
    assert not fresh.is_dynamic()
    assert fresh.patches.keys() == patched.patches.keys()
    assert fresh.wrappers == patched.wrappers


def test_torch_compile_takes_a_resshift_model(comfy: InProcessComfy, monkeypatch):
    import comfy_api.torch_helpers.torch_compile as compiling

    compiled = []

    def eagerly(model: Any = None, **options: Any) -> Any:  # needs no compiler on the machine
        compiled.append(options.pop("backend"))
        return torch_compile(model=model, backend="eager")

    torch_compile = compiling.torch.compile
    monkeypatch.setattr(compiling.torch, "compile", eagerly)

    def compile_it(graph, model, conditioning):
        return graph("TorchCompileModel", model=model, backend="inductor"), conditioning

    with dynamic_memory():
        found = sampled(comfy, compile_it)
    assert compiled == ["inductor"]
    torch.testing.assert_close(found, sampled(comfy), rtol=0, atol=1e-5)


def train(graph: Any, model: Any, conditioning: Any) -> Any:
    from pack.tests.support.graph import defaults, output

    inputs = {"steps": 1, "training_dtype": "fp32", "lora_dtype": "fp32", "rank": 4}
    return graph(
        "TrainLoraNode",
        **{**defaults("TrainLoraNode"), **inputs},
        model=model,
        latents=output(conditioning, 2),
        positive=output(conditioning, 0),
    )


def test_a_lora_is_trained_and_loaded(comfy: InProcessComfy):
    def trained(graph, model, conditioning):
        lora = train(graph, model, conditioning)
        loaded = graph("LoraModelLoader", model=model, lora=lora, strength_model=50.0, bypass=False)
        return loaded, conditioning

    assert not torch.equal(sampled(comfy, trained), sampled(comfy))


def write_lora(folder: Any) -> str:
    """Write a LoRA of one layer of the bundled model."""
    from safetensors.torch import save_file

    from pack.model_loaders.resshift import load_bundled_model

    weights = load_bundled_model().model.diffusion_model.state_dict()
    key = next(key for key, value in weights.items() if value.ndim == 2 and "time" not in key)
    rows, columns = weights[key].shape
    generator = torch.Generator().manual_seed(0)
    name = "diffusion_model." + key.removesuffix(".weight")
    save_file(
        {
            f"{name}.lora_up.weight": torch.randn(rows, 2, generator=generator),
            f"{name}.lora_down.weight": torch.randn(2, columns, generator=generator),
        },
        folder / "tiny_lora.safetensors",
    )
    return "tiny_lora.safetensors"


@pytest.mark.parametrize("dynamic", [False, True])
def test_lora_hooks_act(comfy: InProcessComfy, dynamic):
    import folder_paths

    loras = comfy.base / "models" / "loras"
    loras.mkdir(exist_ok=True)
    folder_paths.add_model_folder_path("loras", str(loras), is_default=True)
    name = write_lora(loras)

    from pack.tests.support.graph import output

    lora = {"lora_name": name, "strength_model": 1.0}

    def with_hook(graph, model, conditioning):
        hook = graph("CreateHookLoraModelOnly", **lora)
        both = graph(
            "PairConditioningSetProperties",
            positive_NEW=output(conditioning, 0),
            negative_NEW=output(conditioning, 1),
            **{"strength": 1.0, "set_cond_area": "default", "hooks": hook},
        )
        return model, both

    def with_patch(graph, model, conditioning):
        return graph("LoraLoaderModelOnly", model=model, **lora), conditioning

    with dynamic_memory() if dynamic else nullcontext():
        found = sampled(comfy, with_hook)
    torch.testing.assert_close(found, sampled(comfy, with_patch), rtol=0, atol=1e-5)


def test_select_model_device_takes_a_resshift_model(comfy: InProcessComfy):
    def on_cpu(graph, model, conditioning):
        return graph("SelectModelDevice", model=model, device="cpu"), conditioning

    with dynamic_memory():
        found = sampled(comfy, on_cpu)
    torch.testing.assert_close(found, sampled(comfy), rtol=0, atol=1e-5)


def test_a_saved_vae_is_the_same_when_loaded(comfy: InProcessComfy):
    from pack.tests.support.graph import Graph

    graph = Graph(comfy)
    vae = graph("ResShiftVAELoader", vae_name="autoencoder_vq_f4.pth")
    graph("VAESave", vae=vae, filename_prefix="vae/saved")
    original = graph.run(vae=vae)
    (saved,) = (comfy.base / "output" / "vae").glob("saved_*.safetensors")
    saved.rename(comfy.base / "models" / "vae" / "saved.safetensors")
    graph = Graph(comfy)
    loaded = graph.run(vae=graph("ResShiftVAELoader", vae_name="saved.safetensors"))
    expected = original.get_sd()
    assert loaded.get_sd().keys() == expected.keys()
    for key, weight in loaded.get_sd().items():
        assert torch.equal(weight, expected[key]), key


@pytest.mark.parametrize(("dtype", "expected"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_the_vae_is_loaded_in_the_dtype_that_is_chosen(comfy: InProcessComfy, dtype, expected):
    from pack.tests.support.graph import Graph

    graph = Graph(comfy)
    vae = graph("ResShiftVAELoader", vae_name="autoencoder_vq_f4.pth", dtype=dtype)
    loaded = graph.run(vae=vae)
    assert loaded.vae_dtype == expected
    assert {weight.dtype for weight in loaded.get_sd().values()} == {expected}


@pytest.mark.parametrize("sampler", ["ksampler", "chain"])
@pytest.mark.parametrize(
    ("node", "inputs", "said"),
    [
        ("ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": False}, "Model Sampling'"),
        ("ModelSamplingSD3", {"shift": 3.0}, "Leave that node out"),
        ("FreeU_V2", {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}, "'model_channels' of a UNet"),
        ("SelfAttentionGuidance", {"scale": 0.5, "blur_sigma": 2.0}, "'Self-Attention Guidance'"),
        ("RenormCFG", {"cfg_trunc": 100.0, "renorm_cfg": 1.0}, None),
    ],
)
def test_nodes_for_other_models_work_or_say_why_not(
    comfy: InProcessComfy, node, inputs, said, sampler
):
    from pack.tests.support import graph as graphs
    from pack.tests.support.tiny import picture

    graph = graphs.Graph(comfy)
    model, vae = graphs.bundled(graph)
    conditioning = graphs.resshift_conditioning(graph, model, vae, picture(16, 16))
    patched = graph(node, model=model, **inputs)
    latent = getattr(graphs, sampler)(graph, patched, conditioning)
    if said is None:
        assert torch.isfinite(graph.run(latent=latent)["samples"]).all()
        return
    with pytest.raises(AssertionError, match="Leave") as failure:
        graph.run(latent=latent)
    assert said in str(failure.value)
