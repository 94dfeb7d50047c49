"""What DiffBIR and HYPIR need of a MODEL of Stable Diffusion 2.1."""

from __future__ import annotations

from typing import Any

import comfy.model_sampling
import comfy.supported_models

# What a network predicts (the noise `eps`, the velocity `v`, or the name of another class), and
# whether its noise schedule ends in noise alone.
Prediction = tuple[str, bool]

NOISE_PREDICTION: Prediction = ("eps", False)


def check_sd2(model: Any, bases: str) -> None:
    """Make sure that a MODEL is Stable Diffusion 2.x of text alone.

    Args:
        model: A MODEL.
        bases: Who needs it and which files to load, to go on after "and" in the message.
    Raises:
        ValueError: If it is another model.
    """
    config = model.model.model_config
    network = config.unet_config
    if not isinstance(config, comfy.supported_models.SD20):
        raise ValueError(
            f"the model connected to 'model' is of the kind {type(config).__name__}, and {bases}"
        )
    if network.get("in_channels") != 4 or network.get("adm_in_channels") is not None:
        raise ValueError(
            "the model connected to 'model' is a variant of Stable Diffusion 2 for inpainting,"
            f" depth or image prompts, and {bases}"
        )


def prediction_of(sampling: Any) -> Prediction:
    """Return what a model_sampling takes the network's output for."""
    zero_snr = bool(getattr(sampling, "zsnr", False))
    bases = comfy.model_sampling
    if isinstance(sampling, bases.V_PREDICTION) and not isinstance(sampling, bases.EDM):
        return "v", zero_snr
    if isinstance(sampling, bases.EPS) and not isinstance(sampling, bases.V_PREDICTION | bases.X0):
        return "eps", zero_snr
    return type(sampling).__name__, zero_snr


def named_prediction(prediction: Prediction) -> str:
    """Return a prediction in words, for messages."""
    names = {"eps": "noise prediction (eps)", "v": "v-prediction"}
    name = names.get(prediction[0], prediction[0])
    return f"{name} with zero terminal SNR" if prediction[1] else name
