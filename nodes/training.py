"""What ComfyUI's Train LoRA needs to train a ResShift MODEL, and how far it has come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui
from torch import Tensor

from ..pipelines.pairs import crops_of_folders, prepare_pairs
from ..pipelines.validation import Validation, draw_validation, watch_training
from .messages import names_its_node
from .widgets import seed_input

CATEGORY = "restoration/training"
NO_FOLDER = "none: reduce the clean ones"
ValidationType = io.Custom("RESTORATION_VALIDATION")
LossMap = io.Custom("LOSS_MAP")


def clean_input(tooltip: str) -> io.Image.Input:
    """Return the input for clean pictures."""
    return io.Image.Input("clean", tooltip=tooltip)


class RestorationPairCrops(io.ComfyNode):
    """Cuts pairs for training from the pictures of one or two folders."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        folders = folder_paths.get_input_subfolders()
        return io.Schema(
            node_id="RestorationPairCrops",
            display_name="Restoration Pair Crops",
            category=CATEGORY,
            description=(
                "Random pieces of the clean pictures of a folder, and of their degraded versions"
                " from a second folder; without one the clean pieces are reduced, for Restoration"
                " Damage or Restoration Degrade to damage each in its own way."
            ),
            search_aliases=["dataset", "training pairs", "random crop", "folder", "load pairs"],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=folders,
                    tooltip="A folder inside ComfyUI's input folder, with clean, sharp pictures.",
                ),
                io.Combo.Input(
                    "degraded_folder",
                    options=[NO_FOLDER, *folders],
                    default=NO_FOLDER,
                    tooltip="A folder with degraded versions under the same names.",
                ),
                io.Int.Input(
                    "count",
                    default=64,
                    min=1,
                    max=4096,
                    tooltip=(
                        "Number of pieces. With as many as training steps nearly every step sees a"
                        " new piece with damage of its own; each of 256 pixels takes 2 MB."
                    ),
                ),
                io.Int.Input(
                    "crop",
                    default=256,
                    min=16,
                    max=2048,
                    step=8,
                    tooltip="Side of a clean piece in pixels. Larger shows more and takes longer.",
                ),
                io.Int.Input(
                    "scale",
                    default=4,
                    min=1,
                    max=16,
                    tooltip="How many times smaller degraded pieces are: the model's scale.",
                ),
                seed_input(),
            ],
            outputs=[
                io.Image.Output(display_name="clean", tooltip="Clean pieces."),
                io.Image.Output(
                    display_name="degraded", tooltip="The same pieces degraded, or only reduced."
                ),
            ],
        )

    @classmethod
    @names_its_node
    def execute(
        cls, folder: str, degraded_folder: str, count: int, crop: int, scale: int, seed: int
    ) -> io.NodeOutput:
        """Cut the pieces."""
        inputs = Path(folder_paths.get_input_directory())
        degraded = None if degraded_folder == NO_FOLDER else inputs / degraded_folder
        return io.NodeOutput(*crops_of_folders(inputs / folder, degraded, count, crop, scale, seed))


class ResShiftTrainingPairs(io.ComfyNode):
    """Encodes pairs for Train LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="ResShiftTrainingPairs",
            display_name="ResShift Training Pairs",
            category=CATEGORY,
            description=(
                "Latents and conditioning of pairs for ComfyUI's Train LoRA: what to learn, and"
                " what a restoration would start from."
            ),
            search_aliases=["train", "lora", "fine-tune", "dataset", "resshift", "pairs"],
            inputs=[
                io.Model.Input("model", tooltip="The ResShift model that will be trained."),
                io.Vae.Input("vae", tooltip="The VAE of this model, from Load ResShift VAE."),
                clean_input("Clean pictures, of the size of the result."),
                io.Image.Input("degraded", tooltip="Their degraded versions, in the same order."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="For inpainting models: 1 where pixels are missing.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latents", tooltip="For latents of Train LoRA."),
                io.Conditioning.Output(
                    display_name="positive",
                    tooltip="For positive of Train LoRA, an entry for each picture.",
                ),
            ],
        )

    @classmethod
    @names_its_node
    def execute(
        cls, model: Any, vae: Any, clean: Tensor, degraded: Tensor, mask: Tensor | None = None
    ) -> io.NodeOutput:
        """Encode the pairs."""
        return io.NodeOutput(*prepare_pairs(model, vae, clean, degraded, mask))


class ResShiftValidation(io.ComfyNode):
    """Restores pictures while a model is trained."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="ResShiftValidation",
            display_name="ResShift Validation",
            category=CATEGORY,
            description=(
                "Lets Train LoRA restore a few pictures now and then that it does not learn from;"
                " Restoration Validation Chart draws how well."
            ),
            search_aliases=["validate", "training", "psnr", "overfitting", "train lora"],
            inputs=[
                io.Model.Input("model", tooltip="The ResShift model that will be trained."),
                io.Vae.Input("vae", tooltip="The VAE of this model, from Load ResShift VAE."),
                clean_input("Clean pictures that are not trained on, of the size of the result."),
                io.Image.Input("degraded", tooltip="Their degraded versions, in the same order."),
                io.Int.Input(
                    "every",
                    default=50,
                    min=1,
                    max=10000,
                    tooltip="Training steps between two looks; fewer take more time.",
                ),
                seed_input(),
            ],
            outputs=[
                io.Model.Output(tooltip="For Train LoRA."),
                ValidationType.Output(
                    display_name="validation", tooltip="For Restoration Validation Chart."
                ),
            ],
        )

    @classmethod
    @names_its_node
    def execute(
        cls, model: Any, vae: Any, clean: Tensor, degraded: Tensor, every: int, seed: int
    ) -> io.NodeOutput:
        """Patch a clone of the model."""
        return io.NodeOutput(*watch_training(model, vae, clean, degraded, every, seed))


class RestorationValidationChart(io.ComfyNode):
    """Draws how far a training has come."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationValidationChart",
            display_name="Restoration Validation Chart",
            category=CATEGORY,
            description="Loss, PSNR, SSIM and NIQE over the steps of a training, and its pictures.",
            search_aliases=["plot", "loss graph", "psnr", "ssim", "niqe", "training chart"],
            is_output_node=True,
            inputs=[
                LossMap.Input("loss", tooltip="loss_map of Train LoRA."),
                ValidationType.Input("validation", tooltip="Of ResShift Validation."),
            ],
            outputs=[
                io.Image.Output(display_name="chart", tooltip="Four curves over the steps."),
                io.Image.Output(
                    display_name="pictures",
                    tooltip="Each picture before the training, after it, and its original.",
                ),
                io.String.Output(display_name="report", tooltip="The figures as a table."),
            ],
        )

    @classmethod
    @names_its_node
    def execute(cls, loss: dict[str, list[float]], validation: Validation) -> io.NodeOutput:
        """Draw the chart."""
        chart, pictures, report = draw_validation(loss, validation)
        return io.NodeOutput(chart, pictures, report, ui=ui.PreviewImage(chart, cls=cls))
