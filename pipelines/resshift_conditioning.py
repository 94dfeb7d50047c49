"""From an image to the conditioning and the start latent of ResShift."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..images.conversion import (
    check_count,
    image_to_planes,
    is_stand_in,
    mask_to_plane,
    planes_to_image,
)
from ..images.padding import reflect_pad_to, reflect_pad_to_multiple
from ..images.resize import enlarge_bicubic
from ..images.transparency import visible_planes
from ..model_loaders.resshift_model import (
    LATENT_KEY,
    LQ_KEY,
    MASK_KEY,
    ResShiftModel,
)
from .resshift_start import start_picture

logger = logging.getLogger("resshift-diffbir")

# Several ComfyUI nodes expect a text embedding in a conditioning; ResShift ignores it.
EMPTY_TEXT = (1, 1, 8)


@dataclass(frozen=True)
class ResShiftInputs:
    """What a ResShift run starts from.

    Attributes:
        positive: ComfyUI conditioning with the latent y, the image and the mask.
        negative: The same; ResShift has no opposite.
        latent: ComfyUI latent holding y.
        width: Width of the result without padding.
        height: Height of the result without padding.
    """

    positive: list
    negative: list
    latent: dict[str, Any]
    width: int
    height: int


def resshift_model(model: Any) -> ResShiftModel:
    """Return the ResShift model inside a MODEL.

    Raises:
        ValueError: If the MODEL is another kind of model.
    """
    if not isinstance(model.model, ResShiftModel):
        raise ValueError(
            f"the model connected to 'model' is a {type(model.model).__name__}, not a ResShift"
            " model. Load one with 'Load ResShift Model'."
        )
    return model.model


def prepare_resshift(
    model: Any,
    vae: Any,
    image: Tensor,
    mask: Tensor | None = None,
    start_image: Tensor | None = None,
) -> ResShiftInputs:
    """Return conditioning and start latent for restoring an image.

    The image is padded on the right and at the bottom by reflection, enlarged by the model's
    scale and encoded; the mask is padded with it, and its hole is blanked in the image.

    Args:
        model: A ResShift MODEL.
        vae: The VAE whose latents it works on.
        image: `(B, H, W, C)` IMAGE; of alpha only that counts what it hides.
        mask: MASK of the image's size, 1 where pixels are to be filled; only for inpainting.
        start_image: IMAGE of the result's size that the chain starts around, one for each picture
            or one for all; None takes the picture of the network in the model's file, or where
            there is none the bicubic enlargement.
    Raises:
        ValueError: If an input does not fit the model; the message says which and what to do.

    Source: Yue et al. 2023 (arXiv 2307.12348); inpainting as in Yue et al. 2024 (arXiv 2403.07319).
    """
    network = resshift_model(model)
    _check_vae(network, vae)
    planes = visible_planes(image).clamp(0, 1)  # (B, 3, H, W)
    scale = network.record.scale
    height, width = planes.shape[-2:]
    hole = _hole(network, mask, planes)
    if hole is not None:
        planes = planes * (1 - hole)

    planes = reflect_pad_to_multiple(planes, network.size_multiple_px)  # (B, 3, padded H, padded W)
    start = _start(model, planes, start_image, (height, width))  # (B, 3, scale H, scale W)
    y = vae.encode(planes_to_image(start))  # (B, latent channels, h, w)
    lq = planes * 2 - 1

    values = {LATENT_KEY: y, LQ_KEY: lq}
    if hole is not None:
        padded = reflect_pad_to_multiple(hole, network.size_multiple_px)  # as planes, one channel
        values[MASK_KEY] = padded * 2 - 1
    ratio = scale * network.network_config.condition_ratio
    return ResShiftInputs(
        positive=[[torch.zeros(EMPTY_TEXT), dict(values)]],
        negative=[[torch.zeros(EMPTY_TEXT), dict(values)]],
        latent={"samples": y, "downscale_ratio_spacial": ratio},
        width=width * scale,
        height=height * scale,
    )


def _start(model: Any, planes: Tensor, start_image: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Return what the chain starts around, `(B, 3, scale H, scale W)` in [0, 1]."""
    scale = model.model.record.scale
    if start_image is None:
        if model.model.network_config.start is not None:
            return start_picture(model, planes)
        return enlarge_bicubic(planes, scale)
    start = check_start_image(start_image, scale, size, len(planes))
    return reflect_pad_to(start, *(scale * side for side in planes.shape[-2:]))


def check_start_image(start_image: Tensor, scale: int, size: tuple[int, int], count: int) -> Tensor:
    """Return a picture to start from for each image, `(B, 3, scale H, scale W)` in [0, 1].

    Args:
        start_image: `(1 or B, scale H, scale W, C)` IMAGE; alpha is left out.
        scale: Side of the result over that of the image.
        size: H and W of the images.
        count: B.
    Raises:
        ValueError: If its size or number is another.
    """
    start, _ = image_to_planes(start_image)
    height, width = (scale * side for side in size)
    if start.shape[-2:] != (height, width):
        raise ValueError(
            f"'start_image' is {start.shape[-1]}x{start.shape[-2]} and must have the size of the"
            f" result, {width}x{height}: enlarge the image {scale} times with any upscaler."
        )
    check_count(len(start), count, "'start_image'")
    return start.clamp(0, 1).expand(count, -1, -1, -1)


def _check_vae(network: ResShiftModel, vae: Any) -> None:
    ratio = network.record.scale * network.network_config.condition_ratio
    channels = network.network_config.latent_channels
    if vae is None:
        raise ValueError(
            f"nothing came through 'vae'. Load '{network.record.autoencoder}' with 'Load ResShift VAE'."
        )
    found_ratio, found_channels = vae.spacial_compression_encode(), vae.latent_channels
    if (found_ratio, found_channels) != (ratio, channels):
        raise ValueError(
            f"the VAE connected to 'vae' makes latents of {found_channels} channels at 1/"
            f"{found_ratio} of the size, and this model needs {channels} channels at 1/{ratio}."
            f" Load '{network.record.autoencoder}' with 'Load ResShift VAE', or choose the model's"
            " right preset."
        )


def usable_mask(
    network: ResShiftModel, mask: Tensor | None, height: int, width: int
) -> Tensor | None:
    """Return the MASK of what a model is to fill, None for models that fill nothing.

    An empty mask is none for them, as Load Image gives one with every picture.

    Args:
        network: The model.
        mask: MASK or None.
        height: Height of the picture.
        width: Width of the picture.
    Raises:
        ValueError: If the model fills holes and there is no mask, or fills none and one says which.
    """
    if not network.network_config.cond_mask:
        if mask is not None and bool(mask.any()):
            raise ValueError(
                f"this model ({network.record.task}) takes no mask. Disconnect it, or load an"
                " inpainting model; to keep pixels, connect the mask to 'Finish Restoration'."
            )
        return None
    if mask is None:
        raise ValueError("this model fills holes: connect a mask, 1 where pixels are missing.")
    if is_stand_in(mask, height, width):
        raise ValueError(
            "this model fills holes, and 'mask' is the empty one that Load Image gives with a"
            " picture without transparency. Paint a mask (right-click on Load Image, Open in"
            " MaskEditor), or load one with Load Image (as Mask): 1 where pixels are missing."
        )
    return mask


def _hole(network: ResShiftModel, mask: Tensor | None, planes: Tensor) -> Tensor | None:
    mask = usable_mask(network, mask, *planes.shape[-2:])
    if mask is None:
        return None
    hole = mask_to_plane(mask, planes.shape[0], *planes.shape[-2:]).to(planes)
    if not hole.any():
        logger.warning("ResShift Conditioning: the mask is empty, so the image stays as it is.")
    return hole
