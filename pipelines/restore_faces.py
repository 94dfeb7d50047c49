"""Whole photographs whose faces are restored one by one and put back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
from torch import Tensor

from ..images.conversion import image_to_planes, planes_to_image
from ..images.face_masks import FaceMask
from ..images.face_places import FacePlace, FacePlaces
from ..images.padding import multiple_above
from ..images.resize import resize_bicubic, short_edge_size
from .diffbir_presets import DiffBIRPreset
from .faces import aligned_faces, blend_faces, check_background
from .latent_guidance import LatentGuidance, patch_latent_guidance
from .noise import BatchNoise, PictureSeeds
from .progress import Share
from .resshift_conditioning import resshift_model
from .restore_diffbir import DiffBIRWeights, are_diffbir, restore_with_diffbir
from .restore_resshift import restore_with_resshift
from .stage_one import SHORT_EDGE_PX

# Between the seeds of the faces of one picture, far from those of the pieces of a picture.
FACE_SEED_STEP = 1 << 40
# Of the sides of faces for a model that enlarges: it pads what is no multiple of its windows, and a
# face stretched to one would be restored with its damage enlarged.
SIDE_MULTIPLE_PX = 16


@dataclass(frozen=True)
class FaceRestorer:
    """A way to restore one aligned face.

    Attributes:
        restore: Takes `(1, h, h, 3)` IMAGE, a seed and which of all faces it is; gives
            `(1, scale h, scale h, 3)`.
        scale: How many times larger the result is.
    """

    restore: Callable[[Tensor, int, Share], Tensor]
    scale: int


def resshift_restorer(model: Any, vae: Any, *, likeness: float, steps: int = 0) -> FaceRestorer:
    """Return the restorer of a ResShift MODEL: one for faces, or one that enlarges photographs.

    Args:
        model: A ResShift MODEL.
        vae: Its VAE.
        likeness: Share of every prediction that is replaced by the face that came in.
        steps: Network calls a face; 0 means as many as the model is made for.
    Raises:
        ValueError: If `model` is another kind of model.
    """
    scale = resshift_model(model).record.scale

    def restore(face: Tensor, seed: int, share: Share) -> Tensor:
        target = resize_bicubic(
            image_to_planes(face)[0], *(scale * side for side in face.shape[1:3])
        )
        guided = _pulled_to(model, planes_to_image(target.clamp(0, 1)), likeness, vae)
        return restore_with_resshift(guided, vae, face, seed=seed, steps=steps, share=share)

    return FaceRestorer(restore, scale)


def diffbir_restorer(
    weights: DiffBIRWeights, preset: DiffBIRPreset, *, likeness: float, steps: int = 0
) -> FaceRestorer:
    """Return the restorer of DiffBIR.

    Args:
        weights: The networks; that of stage 1 the one for faces.
        preset: Settings of the version that they belong to.
        likeness: See `resshift_restorer`.
        steps: Network calls a face; 0 means the preset's.
    """

    def restore(face: Tensor, seed: int, share: Share) -> Tensor:
        planes, _ = image_to_planes(face)
        # As stage 1 hands it on: never smaller than stage 2 takes.
        height, width = short_edge_size(planes.shape[-2], planes.shape[-1], SHORT_EDGE_PX)
        target = resize_bicubic(planes, height, width)
        guided = _pulled_to(
            weights.model, planes_to_image(target.clamp(0, 1)), likeness, weights.vae
        )
        return restore_with_diffbir(
            replace(weights, model=guided),
            face,
            preset=preset,
            seed=seed,
            scale=1.0,
            steps=steps,
            share=share,
        )

    return FaceRestorer(restore, 1)


def diffbir_or_resshift(
    weights: DiffBIRWeights, preset: DiffBIRPreset, *, likeness: float, steps: int = 0
) -> FaceRestorer:
    """Return DiffBIR's restorer where its parts are there, else that of a ResShift MODEL.

    Args:
        weights: MODEL and VAE, and for DiffBIR the other three, else None.
        preset: See `diffbir_restorer`.
        likeness: See `resshift_restorer`.
        steps: See there.
    Raises:
        ValueError: If some of DiffBIR's parts are missing, or all are and it is no ResShift MODEL.
    """
    if not are_diffbir(weights):
        return resshift_restorer(weights.model, weights.vae, likeness=likeness, steps=steps)
    return diffbir_restorer(weights, preset, likeness=likeness, steps=steps)


def _pulled_to(model: Any, face: Tensor, likeness: float, vae: Any) -> Any:
    return patch_latent_guidance(model, face, LatentGuidance(fidelity=likeness), vae=vae)


def restore_faces(
    restorer: FaceRestorer,
    image: Tensor,
    places: FacePlaces,
    *,
    seed: int,
    background: Tensor | None = None,
    strength: float = 1.0,
    mask: FaceMask = "soft square",
    allowed: Tensor | None = None,
    batch_noise: BatchNoise = "different per image",
) -> tuple[Tensor, Tensor]:
    """Return pictures with their faces restored, and how much of each pixel is.

    Each face is a run of its own. Its noise depends on the seed, on its picture's place in the batch
    and on its own place among that picture's faces, so a batch gives what its pictures give alone,
    picture k with `seed + k`.

    Args:
        restorer: How a face is restored.
        image: `(B, H, W, C)` IMAGE.
        places: Its faces.
        seed: Decides all noise.
        background: IMAGE the faces are put into, at any enlargement; None for the pictures.
        strength: Share of the restored face, 0 to 1.
        mask: How the mask of a face is made.
        allowed: See `paste_faces`.
        batch_noise: Whether faces of picture k draw from `seed + k` or from `seed`.
    Returns:
        IMAGE as the background, and MASK, both on the CPU.
    Raises:
        ValueError: If an input does not fit; the message says which and what to do.
    """
    behind = image if background is None else background
    check_background(behind, places)  # before minutes of sampling
    sizes = [_side(face, places.size, restorer.scale) for face in places.faces]

    def restored() -> Iterator[Tensor]:
        before: Counter[int] = Counter()
        aligned = aligned_faces(image, places, sizes)
        for number, (place, face) in enumerate(zip(places.faces, aligned, strict=True)):
            comfy.model_management.throw_exception_if_processing_interrupted()
            offset = place.picture if batch_noise == "different per image" else 0
            seeds = PictureSeeds(seed).moved_by(offset + before[place.picture] * FACE_SEED_STEP)
            before[place.picture] += 1
            share = Share(number, 1, len(sizes))
            made = restorer.restore(planes_to_image(face[None]), seeds.seed, share)
            yield image_to_planes(made)[0][0].cpu()

    return blend_faces(behind, places, restored(), strength=strength, mask=mask, allowed=allowed)


def _side(face: FacePlace, size: int, scale: int) -> int:
    """Return the side at which a face is aligned.

    A model that enlarges gets the face at its own size in the photograph: enlarged beforehand it
    would take the blur of that for the face's, and reduced it would lose what is there.
    """
    if scale == 1:
        return size
    return min(size, multiple_above(round(face.side), SIDE_MULTIPLE_PX))
