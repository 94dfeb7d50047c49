"""Wrong uses of every node, and what the user sees: the rows of docs/bad-input.md and its tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pack.tests.support.bad_files import (
    CUTS,
    FULL_CHECKPOINT,
    HALF_HYPIR,
    OWN_FILES,
    STUDENT,
)
from pack.tests.support.bad_input_graphs import Prompt, graph, node

Kind = Literal["error", "elsewhere", "refused", "works", "interrupted", "removed", "lost"]
Size = tuple[int, int, int]  # pictures, width, height

LOADERS = {
    "ResShiftLoader": ("model_name", "diffusion_models"),
    "ResShiftVAELoader": ("vae_name", "vae"),
    "LAControlNetLoader": ("control_net_name", "controlnet"),
    "SwinIRLoader": ("model_name", "upscale_models"),
    "HYPIRLoader": ("lora_name", "loras"),
}
RESSHIFT_NODES = (
    "ResShiftModelSampling",
    "ResShiftConditioning",
    "ResidualShiftSampler",
    "ResidualShiftScheduler",
    "ResShiftRestoreImage",
)


@dataclass(frozen=True)
class Row:
    """A use and what comes of it.

    Attributes:
        section: Heading it stands under.
        nodes: Ids of the nodes it is true of; a test for each.
        use: What the user does, in a few words.
        outcome: The message, `…` standing for what differs from case to case, or what works.
        prompt: The prompt for one of the nodes.
        kind: `error`: the node's error, which begins with the node's name; `elsewhere`: the error
            of the node of ComfyUI that runs it; `refused`: ComfyUI's own answer before anything
            runs; `works`: a result comes; `interrupted`: stopped by the user in the midst of it;
            `removed`: its file goes between two runs; `lost`: while the run waits in the queue.
        size: Of the saved pictures for one of the nodes, where some are.
        mode: Of the saved pictures.
    """

    section: str
    nodes: tuple[str, ...]
    use: str
    outcome: str
    prompt: Callable[[str], Prompt]
    kind: Kind = "error"
    size: Callable[[str], Size | None] | None = None
    mode: str = "RGB"


def on(sources: Prompt | None = None, **inputs: Any) -> Callable[[str], Prompt]:
    """Return the maker of prompts with these sources and inputs."""
    return lambda node_id: graph(node_id, sources, **inputs)


# Files

FILES = "Files"
LOOKS = {
    OWN_FILES["diffusion_models"]: (
        "it looks like a ResShift model; load it with Load ResShift Model"
    ),
    OWN_FILES["vae"]: "it looks like a VQ autoencoder; load it with Load ResShift VAE",
    OWN_FILES[
        "controlnet"
    ]: "it looks like a LAControlNet; load it with Load LAControlNet (DiffBIR)",
    OWN_FILES["upscale_models"]: (
        "it looks like an upscale network; load it with Load Upscale Model"
    ),
    OWN_FILES["loras"]: "it looks like the LoRA of HYPIR; load it with Load HYPIR",
    "a_lora.safetensors": "it looks like a LoRA; load it with Load LoRA",
}
WANTED = {
    "ResShiftLoader": "is not a ResShift model",
    "ResShiftVAELoader": "is not a VQ autoencoder",
    "LAControlNetLoader": "is not a LAControlNet",
    "SwinIRLoader": "is not a network that spandrel … knows",
    "HYPIRLoader": "is not the LoRA of HYPIR",
}
CHECKPOINT_LOOKS = {
    "ResShiftLoader": (
        "it looks like a diffusion model of another kind; load it with Load Checkpoint or Load"
        " Diffusion Model"
    ),
    "ResShiftVAELoader": (
        "it looks like an autoencoder; load it with Load VAE, or the checkpoint that holds it with"
        " Load Checkpoint"
    ),
    "LAControlNetLoader": "it looks like a full checkpoint; load it with Load Checkpoint",
    "SwinIRLoader": "it looks like a full checkpoint; load it with Load Checkpoint",
    "HYPIRLoader": "it looks like a full checkpoint; load it with Load Checkpoint",
}
KIND_OF_FILE = {
    OWN_FILES["diffusion_models"]: "a ResShift model",
    OWN_FILES["vae"]: "a ResShift VAE",
    OWN_FILES["controlnet"]: "a LAControlNet",
    OWN_FILES["upscale_models"]: "a restoration network (BSRNet)",
    OWN_FILES["loras"]: "HYPIR's LoRA",
    "a_lora.safetensors": "a LoRA",
    FULL_CHECKPOINT: "a checkpoint of Stable Diffusion",
}


def file_in(name: str) -> Callable[[str], Prompt]:
    """Return the maker of prompts that load a file."""
    return lambda node_id: graph(node_id, **{LOADERS[node_id][0]: name})


def file_rows() -> list[Row]:
    rows = []
    for loader, (_, folder) in LOADERS.items():
        for name, kind in KIND_OF_FILE.items():
            if name == OWN_FILES[folder]:
                continue
            looks = CHECKPOINT_LOOKS[loader] if name == FULL_CHECKPOINT else LOOKS[name]
            wanted = WANTED[loader]
            if loader == "SwinIRLoader" and name == OWN_FILES["vae"]:
                wanted = "is not a restoration network"  # its keys are like a network's
            outcome = f"'{name}' {wanted}; {looks} (for example …)."
            rows.append(Row(FILES, (loader,), kind, outcome, file_in(name)))
    loaders = tuple(LOADERS)
    pickled = "cannot be read as a PyTorch file (…). It is truncated or another kind of file: download it again."
    plain = "is not a whole safetensors file (…). It is truncated or another kind of file: download it again."
    for suffix, says in (("pth", pickled), ("safetensors", plain)):
        names = {"a text": f"text.{suffix}", "an empty file": f"empty.{suffix}"}
        names |= {f"its file, cut at its {place}": f"cut_at_{place}.{suffix}" for place in CUTS}
        rows += [
            Row(FILES, loaders, f"{use} (.{suffix})", f"'{name}' {says}", file_in(name))
            for use, name in names.items()
        ]
    rows.append(
        Row(
            FILES,
            loaders,
            "a pickle that holds code",
            "'with_code.pth' holds more than weights, and reading that could run code from the"
            " file, so it is refused. If you trust its source, convert it once with … and load the"
            " result, converted.safetensors next to it. The Python must be ComfyUI's.",
            file_in("with_code.pth"),
        )
    )
    rows += [
        Row(
            FILES,
            ("HYPIRLoader",),
            "a part of HYPIR's LoRA",
            f"'{HALF_HYPIR}' lacks … of the … modules of HYPIR's LoRA; download it again or choose"
            " another file (for example …).",
            file_in(HALF_HYPIR),
        ),
        Row(
            FILES,
            ("ResShiftLoader",),
            "a student of RSD, renamed, with a preset of another network",
            f"'{STUDENT}' sees one channel beside the state and the image: of noise, as a student of"
            " RSD, or of a mask, as a network for inpainting; but its preset or record is of"
            " super-resolution without either. Set preset to 'RSD x4, 1 step', 'RSD x2, 1 step' or"
            " one of inpainting.",
            on(model_name=STUDENT, preset="SinSR x4, 1 step"),
        ),
    ]
    return rows


# Connections

CONNECTIONS = "Connections"


def connection_rows() -> list[Row]:
    sd_model = (
        "the model connected to 'model' is a BaseModel, not a ResShift model. Load one with 'Load"
        " ResShift Model'."
    )
    resshift_model = (
        "the model connected to 'model' is of the kind ResShiftModelConfig, and DiffBIR works on"
        " Stable Diffusion 2.1. Load v2-1_512-ema-pruned (v1, v2) or sd2.1-base-zsnr-laionaes5"
        " (v2.1) with Load Checkpoint."
    )
    no_vae = "nothing came through 'vae': the checkpoint holds none. Load one with 'Load VAE'."
    no_picture = (
        "the conditioning connected to the sampler has no image for this ResShift model. Connect"
        " positive and negative of the node 'ResShift Conditioning'; text prompts do not steer"
        " ResShift."
    )
    resshift_vae_nodes = ("ResShiftConditioning", "ResShiftRestoreImage")
    diffbir_nodes = ("DiffBIRConditioning", "DiffBIRRestoreImage")
    sd_nodes = (*diffbir_nodes, "HYPIRRestoreImage")
    velocity = node("ModelSamplingDiscrete", model=["sd", 0], sampling="v_prediction", zsnr=False)
    network_nodes = ("DiffBIRRemoveDegradation", "DiffBIRRestoreImage", "HYPIRRestoreImage")
    return [
        Row(
            CONNECTIONS,
            RESSHIFT_NODES,
            "model: Stable Diffusion",
            sd_model,
            on(model=["unet_alone", 0]),
        ),
        Row(
            CONNECTIONS,
            ("DiffBIRSampler", "DiffBIRRestoreImage"),
            "model: ResShift",
            resshift_model,
            on(model=["x4", 0]),
        ),
        Row(
            CONNECTIONS,
            ("HYPIRLoader", "HYPIRSingleStep", "HYPIRRestoreImage"),
            "model: ResShift",
            "the model connected to 'model' is of the kind ResShiftModelConfig, and HYPIR works on"
            " Stable Diffusion 2.1 base. Load v2-1_512-ema-pruned with Load Checkpoint.",
            on(model=["x4", 0]),
        ),
        Row(
            CONNECTIONS,
            ("HYPIRLoader", "HYPIRSingleStep", "HYPIRRestoreImage"),
            "model: ModelSamplingDiscrete set to v_prediction",
            "a node before this one set the model's sampling to v-prediction, and HYPIR needs noise"
            " prediction (eps). Take that node away.",
            on({"velocity": velocity}, model=["velocity", 0]),
        ),
        Row(
            CONNECTIONS,
            ("HYPIRLoader",),
            "model: of another Load HYPIR",
            "the model connected to 'model' went through 'Load HYPIR' before, and twice is too much."
            " Connect the model of Load Checkpoint.",
            on(model=["hypir", 0]),
        ),
        Row(
            CONNECTIONS,
            ("HYPIRSingleStep",),
            "SamplerCustom with sigmas of more steps",
            "HYPIR's sampler takes one step and got 2 of them. Connect the sigmas of 'HYPIR Single"
            " Step'.",
            custom_sampler_on_sd,
            "elsewhere",
        ),
        Row(
            CONNECTIONS,
            ("DiffBIRSpacedScheduler",),
            "model: ResShift",
            "the model connected to 'model' is a ResShiftModel whose schedule has no training"
            " timesteps. Load Stable Diffusion 2.1 with Load Checkpoint.",
            on(model=["x4", 0]),
        ),
        Row(
            CONNECTIONS,
            ("DiffBIRDynamicCFG", "RestorationTiles"),
            "model: ResShift",
            "works, as with any model of pictures",
            on(model=["x4", 0]),
            "works",
            lambda _: (1, 32, 32),
        ),
        Row(
            CONNECTIONS,
            resshift_vae_nodes,
            "vae: Stable Diffusion's",
            "the VAE connected to 'vae' makes latents of 4 channels at 1/8 of the size, and this"
            " model needs 48 channels at 1/4. Load 'bundled' with 'Load ResShift VAE', or choose"
            " the model's right preset.",
            on(vae=["sd", 2]),
        ),
        Row(
            CONNECTIONS,
            resshift_vae_nodes,
            "vae: of another ResShift model",
            "the VAE connected to 'vae' makes latents of 3 channels at 1/4 of the size, and this"
            " model needs 48 channels at 1/4. Load 'bundled' with 'Load ResShift VAE', or choose"
            " the model's right preset.",
            on(vae=["fill_vae", 0]),
        ),
        Row(
            CONNECTIONS,
            sd_nodes,
            "vae: of a ResShift model",
            "the VAE connected to 'vae' makes latents of 48 channels that are not SD's, which have"
            " 4 channels at 1/8 of the size. Connect the VAE of SD 2.1's checkpoint.",
            on(vae=["x4_vae", 0]),
        ),
        Row(
            CONNECTIONS,
            ("DiffBIRLatentGuidance",),
            "vae: of another model",
            "the VAE connected to 'vae' makes latents of 48 channels, and this model's have 4."
            " Connect the VAE that belongs to the model.",
            on(vae=["x4_vae", 0]),
        ),
        Row(
            CONNECTIONS,
            (*sd_nodes, "DiffBIRLatentGuidance"),
            "vae: of a checkpoint that has none",
            no_vae,
            on(vae=["unet_alone", 2]),
        ),
        Row(
            CONNECTIONS,
            ("DiffBIRLatentGuidance",),
            "an image without a vae",
            "to guide by 'image', connect the model's VAE to 'vae' too.",
            lambda node_id: without(graph(node_id), "vae"),
        ),
        Row(
            CONNECTIONS,
            ("DiffBIRLatentGuidance",),
            "neither target nor image",
            "connect either 'target' (a latent) or 'image' (with 'vae'), to say what to stay close"
            " to.",
            lambda node_id: without(graph(node_id), "image"),
        ),
        Row(
            CONNECTIONS,
            ("DiffBIRLatentGuidance",),
            "target: latent of another model",
            "the target of the guidance has shape (1, 48, 8, 8), and this model's latents have 4"
            " channels. Encode the target with the model's VAE.",
            lambda node_id: without(graph(node_id, target=["lq", 2]), "image"),
        ),
        Row(
            CONNECTIONS,
            diffbir_nodes,
            "control_net: an ordinary ControlNet",
            "the control network connected to 'control_net' (ControlNet) is not a LAControlNet of"
            " DiffBIR. Load one with 'Load LAControlNet (DiffBIR)'; ordinary ControlNets go into"
            " 'Apply ControlNet'.",
            on(control_net=["ordinary_control", 0]),
        ),
        Row(
            CONNECTIONS,
            network_nodes,
            "upscale_model: a network for grey pictures",
            "the network connected to 'upscale_model' takes 1 channels and gives 1; load one for"
            " RGB images.",
            on(upscale_model=["grey_network", 0]),
        ),
        Row(
            CONNECTIONS,
            ("DiffBIRRestoreImage", "HYPIRRestoreImage"),
            "clip: of a checkpoint that has none",
            "there is no text encoder at 'clip'. Load a checkpoint that has one, such as"
            " v2-1_512-ema-pruned, with Load Checkpoint.",
            on(clip=["unet_alone", 1]),
        ),
        Row(
            CONNECTIONS,
            ("DiffBIRConditioning",),
            "prompts of SD 1.5's CLIP",
            "the text embeddings have 768 values for each token, and this control network takes"
            " 1024. Encode the prompts with the CLIP of SD 2.1.",
            on(positive=["short_text", 0]),
        ),
        Row(
            CONNECTIONS,
            ("ResidualShiftSampler",),
            "positive: a text prompt",
            no_picture,
            on(positive=["text", 0]),
        ),
        Row(
            CONNECTIONS,
            ("ResShiftModelSampling", "DiffBIRDynamicCFG", "RestorationTiles"),
            "a ResShift model in KSampler with text prompts",
            no_picture,
            ksampler_with_text,
            "elsewhere",
        ),
        Row(
            CONNECTIONS,
            ("ResidualShiftSamplerSelect",),
            "SamplerCustom with another model",
            "the ResShift sampler got a model that is not ResShift. Load one with 'Load ResShift"
            " Model', or choose another sampler for this model.",
            custom_sampler_on_sd,
            "elsewhere",
        ),
        Row(
            CONNECTIONS,
            ("ResidualShiftSampler",),
            "latent_image: of another VAE",
            "this ResShift model works on latents of 48 channels and got 4. Encode with its own"
            " VAE: 'bundled'.",
            on(latent_image=["sd_latent", 0]),
        ),
        Row(
            CONNECTIONS,
            ("DiffBIRSampler",),
            "latent_image: of another VAE",
            "the latent connected to 'latent_image' has 48 channels, and Stable Diffusion's have 4."
            " Connect the latent of 'DiffBIR Conditioning'.",
            on(latent_image=["lq", 2]),
        ),
        Row(
            CONNECTIONS,
            ("DiffBIRSampler",),
            "positive: a text prompt without control",
            "the conditioning connected to 'positive' holds no image to restore. Connect positive"
            " and negative of 'DiffBIR Conditioning', or of 'Apply ControlNet' with a LAControlNet.",
            on(positive=["text", 0], negative=["text", 0]),
        ),
        Row(
            CONNECTIONS,
            ("ResShiftRestoreImage",),
            "a model whose weights overflow",
            "the restored picture has NaN or infinite pixels; the model that made it failed, often"
            " for lack of precision: run that model in float32 (fp32).",
            on(model=["overflowing", 0]),
        ),
        Row(
            CONNECTIONS,
            ("ResShiftRestoreImage",),
            "model: a picture",
            "Return type mismatch between linked nodes: model, received_type(IMAGE) mismatch"
            " input_type(MODEL)",
            on(model=["picture", 0]),
            "refused",
        ),
    ]


def without(prompt: Prompt, name: str) -> Prompt:
    """Return the prompt with an input of its node left out."""
    inputs = {key: value for key, value in prompt["node"]["inputs"].items() if key != name}
    return {**prompt, "node": {**prompt["node"], "inputs": inputs}}


def ksampler_with_text(node_id: str) -> Prompt:
    """Return a prompt that samples a ResShift model with plain text."""
    prompt = graph(node_id, model=["x4", 0])
    prompt["sampler"]["inputs"] |= {"positive": ["text", 0], "negative": ["text", 0]}
    return prompt


def custom_sampler_on_sd(node_id: str) -> Prompt:
    """Return a prompt that runs the node's SAMPLER on Stable Diffusion in two steps."""
    prompt = graph(node_id)
    prompt["sigmas"] = node(
        "BasicScheduler", model=["sd", 0], scheduler="normal", steps=2, denoise=1.0
    )
    prompt["sampler"] = node(
        "SamplerCustom",
        model=["sd", 0],
        add_noise=True,
        noise_seed=0,
        cfg=1.0,
        positive=["text", 0],
        negative=["text", 0],
        sampler=["node", 0],
        sigmas=["sigmas", 0],
        latent_image=["latent", 0],
    )
    prompt["out"] = node("PreviewAny", source=["sampler", 0])
    return prompt
