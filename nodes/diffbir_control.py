"""Nodes for the control branch of DiffBIR."""

from __future__ import annotations

from typing import Any

import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ..model_loaders.la_control_net import load_la_control_net
from ..pipelines.diffbir_conditioning import STARTS, Start, prepare_diffbir
from ..pipelines.noise import BatchNoise, PictureSeeds
from .files import find_file
from .messages import names_its_node
from .widgets import MAX_SEED, batch_noise_input

CATEGORY = "restoration/DiffBIR"


def control_net_names() -> list[str]:
    """Return the files of the controlnet folder, then those of the checkpoints folder."""
    names = folder_paths.get_filename_list("controlnet")
    checkpoints = folder_paths.get_filename_list("checkpoints")
    return [*names, *(name for name in checkpoints if name not in names)]


class LAControlNetLoader(io.ComfyNode):
    """Loads DiffBIR's control branch as a CONTROL_NET."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="LAControlNetLoader",
            display_name="Load LAControlNet (DiffBIR)",
            category=CATEGORY,
            description=(
                "Loads the control branch of DiffBIR (LAControlNet, also called IRControlNet), v1,"
                " v2, v2.1 or your own, for the UNet of SD 2.1."
            ),
            search_aliases=[
                "diffbir",
                "ircontrolnet",
                "lacontrolnet",
                "controlnet loader",
                "restoration model",
                "upscale",
            ],
            inputs=[
                io.Combo.Input(
                    "control_net_name",
                    options=control_net_names(),
                    tooltip=(
                        "v1_general.pth, v1_face.pth, v2.pth or DiffBIR_v2.1.pt in"
                        " models/controlnet. The full v1 checkpoints (general_full_v1.ckpt,"
                        " face_full_v1.ckpt) in models/checkpoints work too; of two files with one"
                        " name that of models/controlnet is loaded."
                    ),
                ),
            ],
            outputs=[
                io.ControlNet.Output(
                    tooltip=(
                        "For DiffBIR Conditioning; also works in Apply ControlNet with its VAE"
                        " connected."
                    )
                )
            ],
        )

    @classmethod
    @names_its_node
    def execute(cls, control_net_name: str) -> io.NodeOutput:
        """Load the file."""
        path = find_file(control_net_name, "controlnet", "checkpoints")
        return io.NodeOutput(load_la_control_net(path))


class DiffBIRConditioning(io.ComfyNode):
    """Prepares an image and prompts for DiffBIR's second stage."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="DiffBIRConditioning",
            display_name="DiffBIR Conditioning",
            category=CATEGORY,
            description=(
                "Pads and encodes the result of stage 1 once, attaches it with the control network"
                " to both prompts, and makes the latent to start from."
            ),
            search_aliases=["diffbir", "apply controlnet", "restore", "condition", "upscale"],
            inputs=[
                io.Conditioning.Input(
                    "positive",
                    tooltip=(
                        "What the picture shows and how good it is, from the CLIP of SD 2.1; may"
                        " be the encoding of an empty text."
                    ),
                ),
                io.Conditioning.Input("negative", tooltip="What to avoid, such as 'low quality'."),
                io.ControlNet.Input("control_net", tooltip="From Load LAControlNet (DiffBIR)."),
                io.Vae.Input("vae", tooltip="The VAE of SD 2.1's checkpoint."),
                io.Image.Input(
                    "image",
                    tooltip=(
                        "The result of Remove Degradation (DiffBIR Stage 1), at the size of the"
                        " restored picture, 512 px or more on each side. Values outside 0 to 1"
                        " stay; alpha is left out."
                    ),
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip=(
                        "How strongly the image steers. 1 is what DiffBIR was trained with; lower"
                        " leaves the base model more freedom, 0 leaves the image out."
                    ),
                ),
                io.Combo.Input(
                    "start",
                    options=list(STARTS),
                    default=STARTS[0],
                    tooltip=(
                        "What the latent holds: nothing, so that sampling starts from noise alone,"
                        " or the encoded image, which steadies v1 and v2."
                    ),
                ),
                io.Int.Input(
                    "noise_aug",
                    default=0,
                    min=0,
                    max=999,
                    tooltip=(
                        "Noise added to what the control network sees, as of this training"
                        " timestep. More gives more invented detail and less fidelity. 0 is the"
                        " default; v2.1 was trained with 0 to 199, v1 and v2 without."
                    ),
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    advanced=True,
                    tooltip="Where in the run the control begins; later leaves the start freer.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    advanced=True,
                    tooltip="Where in the run the control ends; earlier leaves fine texture freer.",
                ),
                io.Boolean.Input(
                    "zero_snr",
                    default=False,
                    advanced=True,
                    tooltip=(
                        "For v2.1: noise_aug is a timestep of the schedule with zero terminal SNR,"
                        " where the same number means a little more noise."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=False,
                    advanced=True,
                    tooltip=(
                        "Seed of noise_aug's noise, without effect where that is 0. The sampler's"
                        " seed may be the same; the noise is not."
                    ),
                ),
                batch_noise_input(),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Latent.Output(tooltip="Where sampling starts, with denoise 1."),
                io.Int.Output(display_name="width", tooltip="Width of the result without padding."),
                io.Int.Output(
                    display_name="height", tooltip="Height of the result without padding."
                ),
            ],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        positive: list,
        negative: list,
        control_net: Any,
        vae: Any,
        image: Tensor,
        strength: float,
        start: Start,
        noise_aug: int,
        start_percent: float,
        end_percent: float,
        zero_snr: bool,
        seed: int,
        batch_noise: BatchNoise,
    ) -> io.NodeOutput:
        """Prepare image and prompts."""
        made = prepare_diffbir(
            positive,
            negative,
            control_net,
            vae,
            image,
            strength=strength,
            start_percent=start_percent,
            end_percent=end_percent,
            noise_aug=noise_aug,
            zero_snr=zero_snr,
            start=start,
            seeds=PictureSeeds(seed, batch_noise),
        )
        return io.NodeOutput(made.positive, made.negative, made.latent, made.width, made.height)
