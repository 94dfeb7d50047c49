"""Nodes that load ResShift models and their autoencoders."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..model_loaders.record import AUTO, PIXEL_LATENT, PRESET_CHOICES
from ..model_loaders.resshift import (
    BUNDLED_MODEL,
    DTYPES,
    DtypeChoice,
    bundled_vae,
    load_bundled_model,
    load_resshift,
    load_vq_vae,
)
from .files import find_file
from .messages import names_its_node

CATEGORY = "restoration/ResShift"


class ResShiftLoader(io.ComfyNode):
    """Loads a ResShift checkpoint as a MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="ResShiftLoader",
            display_name="Load ResShift Model",
            category=CATEGORY,
            description=(
                "Loads a ResShift, SinSR or RSD checkpoint from the diffusion_models folder, or the"
                " small model that ships with this pack. The released ResShift, SinSR and RSD"
                " weights are for non-commercial use (S-Lab License 1.0; CC BY-NC-SA 4.0)."
            ),
            search_aliases=[
                "resshift",
                "sinsr",
                "rsd",
                "super resolution model",
                "restoration model",
                "upscale",
                "inpainting model",
            ],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=[
                        BUNDLED_MODEL,
                        *folder_paths.get_filename_list("diffusion_models"),
                    ],
                    tooltip=(
                        "A ResShift checkpoint in models/diffusion_models. The entry that begins"
                        " with 'bundled' needs no download."
                    ),
                ),
                io.Combo.Input(
                    "preset",
                    options=list(PRESET_CHOICES),
                    default=AUTO,
                    tooltip=(
                        "How the checkpoint was trained. 'auto' reads it from the file or its"
                        " released name; choose one for renamed files and own checkpoints."
                    ),
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    advanced=True,
                    tooltip=(
                        "Precision of the weights. 'auto' takes what is best for the device; fp16"
                        " and bf16 halve the memory, fp32 is exact."
                    ),
                ),
            ],
            outputs=[io.Model.Output(tooltip="Works with every sampler node of ComfyUI.")],
        )

    @classmethod
    @names_its_node
    def execute(cls, model_name: str, preset: str, dtype: DtypeChoice) -> io.NodeOutput:
        """Load the file."""
        if model_name == BUNDLED_MODEL:
            return io.NodeOutput(load_bundled_model(dtype=dtype))
        path = find_file(model_name, "diffusion_models")
        return io.NodeOutput(load_resshift(path, preset=preset, dtype=dtype))


class ResShiftVAELoader(io.ComfyNode):
    """Loads a VQ autoencoder as a VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="ResShiftVAELoader",
            display_name="Load ResShift VAE",
            category=CATEGORY,
            description=(
                "Loads the VQ autoencoder (f4 or f8) that a ResShift model works in, from the vae"
                " folder, or the weightless one of the bundled model."
            ),
            search_aliases=["resshift", "vq", "vqgan", "autoencoder", "vae"],
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=[PIXEL_LATENT, *folder_paths.get_filename_list("vae")],
                    tooltip=(
                        "autoencoder_vq_f4.pth for super-resolution and inpainting,"
                        " celeba256_vq_f4_dim3_face.pth for inpainting of faces,"
                        " ffhq512_vq_f8_dim8_face.pth for face restoration, the bundled entry for"
                        " the bundled model."
                    ),
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    optional=True,  # prompts saved before there was a choice still run
                    advanced=True,
                    tooltip=(
                        "Precision of the network. 'auto' takes what is best for the device, fp32"
                        " on CPUs; fp16 and bf16 need half the memory and bf16 is twice as fast on"
                        " CPUs with units for it, but a tenth or so of the finest details come out"
                        " otherwise. The bundled entry is exact whatever is chosen."
                    ),
                ),
            ],
            outputs=[
                io.Vae.Output(tooltip="Also works in VAE Encode, VAE Decode and their tiled forms.")
            ],
        )

    @classmethod
    @names_its_node
    def execute(cls, vae_name: str, dtype: DtypeChoice = "auto") -> io.NodeOutput:
        """Load the file."""
        if vae_name == PIXEL_LATENT:
            return io.NodeOutput(bundled_vae())
        return io.NodeOutput(load_vq_vae(find_file(vae_name, "vae"), dtype=dtype))
