#!/usr/bin/env python3
"""Measures the way of faces out of photographs and back, and draws the picture of docs/faces.md.

`COMFYUI_PATH=... python benchmarks/faces_page.py` prints the table and writes docs/faces.jpg. The
photographs: scikit-image's astronaut, reduced to half and compressed; the sample picture of the face
workflows; and two in benchmarks/faces, CC0, from Pexels as published with IBM's MAX Image Caption
Generator (soccer) and with an example for Amazon Rekognition (women).
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from worker import PACK_ROOT, set_up

TARGET = PACK_ROOT / "docs" / "faces.jpg"
PIECES = {"astronaut": (20, 0), "crew": (130, 20), "soccer": (420, 60), "women": (400, 10)}
PIECE = (200, 190)


def main() -> int:
    set_up("fp32")
    import torch

    with torch.inference_mode():
        picture = draw_page()
    picture.save(TARGET, quality=82)
    print(f"{TARGET.stat().st_size:,} bytes")
    return 0


def photographs():
    """Return the photographs by name as IMAGE."""
    import numpy as np
    import skimage.data
    import torch
    from PIL import Image

    from pack.benchmarks.face_illustrations import read_crew

    def as_image(opened: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(opened.convert("RGB"))).float()[None] / 255

    compressed = io.BytesIO()
    half = Image.fromarray(skimage.data.astronaut()).resize((256, 256), Image.Resampling.LANCZOS)
    half.save(compressed, "JPEG", quality=60)
    own = Path(__file__).with_name("faces")
    return {
        "astronaut": as_image(Image.open(compressed)),
        "crew": read_crew(),
        **{name: as_image(Image.open(own / f"{name}.jpg")) for name in ("soccer", "women")},
    }


def draw_page():
    """Print a row for each photograph and return found faces and restored pieces of all."""
    from torchvision.transforms.functional import to_tensor

    from pack.benchmarks.contact_sheet import to_image
    from pack.benchmarks.face_illustrations import mark_faces
    from pack.images.conversion import image_to_planes
    from pack.images.labels import label_grid
    from pack.images.resize import enlarge_bicubic
    from pack.model_loaders.resshift import bundled_vae, load_bundled_model
    from pack.pipelines.face_detection import detect_faces
    from pack.pipelines.faces import align_faces, choose_faces, paste_faces
    from pack.pipelines.restore_faces import resshift_restorer, restore_faces
    from pack.pipelines.restore_resshift import restore_with_resshift

    model, vae = load_bundled_model(dtype="fp32"), bundled_vae()
    restorer = resshift_restorer(model, vae, likeness=0.0)
    shown, labels = [], []
    print("| photograph | size | faces found | sides, px | PSNR inside the mask, dB | outside |")
    print("|---|---|---|---|---|---|")
    for name, image in photographs().items():
        faces = detect_faces(image)
        places = choose_faces(faces, image)
        untouched, mask = paste_faces(image, places, align_faces(image, places))
        error = (untouched - image)[mask > 0].square().mean()
        same = bool((untouched == image)[mask == 0].all())
        sides = ", ".join(f"{place.side:.0f}" for place in places.faces)
        height, width = image.shape[1:3]
        print(
            f"| {name} | {width}x{height} | {len(places.faces)} | {sides} |"
            f" {-10 * error.log10().item():.1f} | {'unchanged' if same else 'CHANGED'} |",
            flush=True,
        )
        behind = restore_with_resshift(model, vae, image, seed=0)
        restored, _ = restore_faces(restorer, image, places, seed=0, background=behind)
        bicubic = enlarge_bicubic(image_to_planes(image)[0], 4).clamp(0, 1)
        marked = to_tensor(mark_faces(image, faces, 1))[None]
        left, top = PIECES[name]
        for label, picture, scale in (
            ("found", marked, 1),
            ("bicubic", bicubic, 4),
            ("restored", image_to_planes(restored)[0], 4),
        ):
            rows = slice(scale * top, scale * (top + PIECE[1]))
            columns = slice(scale * left, scale * (left + PIECE[0]))
            piece = picture[..., rows, columns]
            if scale == 1:
                piece = enlarge_bicubic(piece, 2).clamp(0, 1)
            else:
                piece = piece.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
            shown.append(piece[0])
            labels.append(f"{name}: {label}")
    return to_image(label_grid(shown, labels, 3, 24)[None])


if __name__ == "__main__":
    sys.exit(main())
