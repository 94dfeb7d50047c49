"""Training of all weights of a ResShift MODEL."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..pipelines.training import TRAINING_DTYPES, TrainingDtype, TrainingSettings, train_model
from .messages import names_its_node
from .training import CATEGORY, LossMap
from .widgets import MAX_SEED

# A folder inside ComfyUI's output folder.
CHECKPOINT_FOLDER = "restoration_training"
FROM_THE_MODEL = "none: begin with the model"


def checkpoint_folder() -> Path:
    """Return the folder that checkpoints of trainings are kept in."""
    return Path(folder_paths.get_output_directory()) / CHECKPOINT_FOLDER


def checkpoint_names() -> list[str]:
    """Return the checkpoints that a training can go on from."""
    folder = checkpoint_folder()
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.safetensors"))


def new_checkpoint(filename_prefix: str) -> Path:
    """Return the file for the checkpoints of a new training.

    Args:
        filename_prefix: As ComfyUI's saving nodes take it, inside the folder of checkpoints.
    Raises:
        ValueError: If it names no file in there.
    """
    prefix = PurePath(filename_prefix)
    if not prefix.name or prefix.anchor or ".." in prefix.parts:
        raise ValueError(
            f"'filename_prefix' is '{filename_prefix}' and names no file inside ComfyUI's"
            f" output/{CHECKPOINT_FOLDER}; write a name such as 'own_model'."
        )
    folder, name, counter, *_ = folder_paths.get_save_image_path(
        f"{CHECKPOINT_FOLDER}/{filename_prefix}", folder_paths.get_output_directory()
    )
    return Path(folder) / f"{name}_{counter:05}_.safetensors"


class RestorationTrainModel(io.ComfyNode):
    """Trains all weights of a ResShift MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationTrainModel",
            display_name="Restoration Train Model",
            category=CATEGORY,
            description=(
                "Trains all weights of a ResShift model on pairs, for a damage that a LoRA is too"
                " small for. Save Model keeps the result; an interrupt keeps what was reached."
            ),
            search_aliases=["fine-tune", "train", "resshift", "full training", "checkpoint"],
            inputs=[
                io.Model.Input("model", tooltip="The ResShift model to train; it stays as it is."),
                io.Latent.Input("latents", tooltip="latents of ResShift Training Pairs."),
                io.Conditioning.Input("positive", tooltip="positive of ResShift Training Pairs."),
                io.Int.Input(
                    "steps",
                    default=300,
                    min=1,
                    max=1000000,
                    tooltip=(
                        "Steps of the whole training, those before a resumed checkpoint included."
                        " More learns more, in the end the pictures by heart."
                    ),
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.00015,
                    min=0.0000001,
                    max=1.0,
                    step=0.0000001,
                    tooltip=(
                        "The highest one: it rises for a twentieth of the steps and then falls to"
                        " almost 0. Higher learns faster, too high destroys the model."
                    ),
                ),
                io.Int.Input(
                    "grad_accumulation_steps",
                    default=1,
                    min=1,
                    max=1024,
                    tooltip=(
                        "Pictures that each step learns from. More makes steps calmer and takes"
                        " longer in proportion; it takes no more memory."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    tooltip="Decides order, noise levels and noise: one seed trains one model.",
                ),
                io.Combo.Input(
                    "training_dtype",
                    options=list(TRAINING_DTYPES),
                    default="bf16",
                    tooltip=(
                        "What is computed in; weights are trained in fp32. fp32 where a processor"
                        " has no units for bf16."
                    ),
                ),
                io.Int.Input(
                    "checkpoint_every",
                    default=100,
                    min=0,
                    max=1000000,
                    tooltip=(
                        "Steps between two checkpoints; a new one takes the place of the one"
                        " before. 0 writes one only when the training is interrupted."
                    ),
                ),
                io.String.Input(
                    "filename_prefix",
                    default="own_model",
                    tooltip="Name of the checkpoint in ComfyUI's output/restoration_training.",
                ),
                io.Combo.Input(
                    "resume_from",
                    options=[FROM_THE_MODEL, *checkpoint_names()],
                    default=FROM_THE_MODEL,
                    tooltip=(
                        "A checkpoint to go on from. With the same other inputs the result is that"
                        " of a training that was never interrupted. Press R to see new files."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with the new weights."),
                LossMap.Output(
                    display_name="loss_map",
                    tooltip="For Plot Loss Graph or Restoration Validation Chart.",
                ),
                io.Int.Output(display_name="steps", tooltip="Steps done."),
            ],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        model: Any,
        latents: dict[str, Any],
        positive: list,
        steps: int,
        learning_rate: float,
        grad_accumulation_steps: int,
        seed: int,
        training_dtype: TrainingDtype,
        checkpoint_every: int,
        filename_prefix: str,
        resume_from: str,
    ) -> io.NodeOutput:
        """Train the model."""
        settings = TrainingSettings(
            steps, learning_rate, seed, training_dtype, grad_accumulation_steps, checkpoint_every
        )
        checkpoint = new_checkpoint(filename_prefix)
        resume = None if resume_from == FROM_THE_MODEL else checkpoint_folder() / resume_from
        made = train_model(model, latents, positive, settings, checkpoint=checkpoint, resume=resume)
        return io.NodeOutput(*made)
