"""Whole restorations: an IMAGE in, an IMAGE out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..images.color import ColorFix
from ..images.conversion import image_to_planes
from .conditioning import prepare_resshift, resshift_model
from .finish import enlarge_alpha, finish_restoration
from .noise import BatchNoise
from .sampling import residual_shift_sigmas, run_callback, sample_resshift


def restore_with_resshift(
    model: Any,
    vae: Any,
    image: Tensor,
    mask: Tensor | None = None,
    *,
    seed: int,
    steps: int = 0,
    randomness: float = 1.0,
    color_fix: ColorFix = "none",
    batch_noise: BatchNoise = "different per image",
) -> Tensor:
    """Return every picture of a batch restored by ResShift.

    Pictures are restored one after the other, so memory does not grow with the batch and a
    picture does not depend on its neighbours.

    Args:
        model: A ResShift MODEL.
        vae: The VAE whose latents it works on.
        image: `(B, H, W, C)` IMAGE; alpha comes back enlarged.
        mask: MASK for inpainting, one or one for each picture, 1 where pixels are to be filled.
        seed: Decides all noise.
        steps: Network calls a picture; 0 means as many as the model is made for.
        randomness: 1 is the published chain, 0 its deterministic member.
        color_fix: See `fix_color`; the reference is `image`.
        batch_noise: Whether picture k draws from `seed + k` or every picture from `seed`.
    Returns:
        `(B, H scale, W scale, 3)` or, with alpha, 4 channels, in [0, 1].
    Raises:
        ValueError: If an input does not fit the model; the message says which and what to do.
    """
    resshift_model(model)
    _, alpha = image_to_planes(image)
    if mask is not None:
        mask = mask.reshape(-1, *mask.shape[-2:])
        if len(mask) not in (1, len(image)):
            raise ValueError(
                f"there are {len(mask)} masks for {len(image)} images; give one mask or one for"
                " each."
            )
        mask = mask.expand(len(image), -1, -1)
    run_steps = len(residual_shift_sigmas(model, steps)) - 1
    callback_after = None
    restored = []
    for k in range(len(image)):
        picture = image[k : k + 1]
        hole = None if mask is None else mask[k : k + 1]
        inputs = prepare_resshift(model, vae, picture, hole)
        if callback_after is None:  # the preview is fitted by the first encoding
            callback_after = run_callback(model, run_steps * len(image))
        sampled = sample_resshift(
            model,
            inputs.positive,
            inputs.latent,
            seed=seed,
            steps=steps,
            randomness=randomness,
            batch_noise=batch_noise,
            first=k,
            callback=callback_after(run_steps * k),
        )
        finished = finish_restoration(
            vae.decode(sampled["samples"]),
            inputs.width,
            inputs.height,
            reference=picture,
            color_fix=color_fix,
            original=None if hole is None else picture,
            mask=hole,
        )
        if alpha is not None:
            plane = enlarge_alpha(alpha[k : k + 1], inputs.height, inputs.width)
            finished = torch.cat([finished, plane.movedim(1, -1).to(finished)], dim=-1)
        restored.append(finished.cpu())
    return torch.cat(restored)
