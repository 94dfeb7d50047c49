#!/usr/bin/env python3
"""Draws the picture of docs/video.md: frames and a row of pixels over time, for each way to restore.

`COMFYUI_PATH=... python benchmarks/video_pictures.py CLIP` reads a few frames of a video, reduces
them, restores them with the bundled model in each way and writes docs/video.jpg. It prints what a
frame took and how much the mean of each channel jumps from frame to frame.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from worker import PACK_ROOT, set_up

TARGET = PACK_ROOT / "docs" / "video.jpg"
WAYS = {
    "different per image": {},
    "same for all": {"batch_noise": "same for all"},
}
COLORS = ("none", "wavelet", "adain", "luminance")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path, help="a video")
    parser.add_argument("--skip", type=int, default=0, help="frames that are passed over")
    parser.add_argument("--frames", type=int, default=16, help="frames that are restored")
    parser.add_argument("--width", type=int, default=160, help="what they are reduced to")
    parser.add_argument("--row", type=int, default=100, help="of the result, shown over time")
    parser.add_argument("--colors", action="store_true", help="the colour fixes instead of noises")
    parser.add_argument("--output", type=Path, default=TARGET, help="where to, else docs/video.jpg")
    arguments = parser.parse_args(argv)
    set_up("fp32")
    import torch

    from pack.benchmarks.video_illustrations import (
        draw_clips,
        enlarged_clip,
        read_clip,
        restored_clip,
    )
    from pack.model_loaders.resshift import bundled_vae, load_bundled_model

    ways = {name: {"color_fix": name} for name in COLORS} if arguments.colors else WAYS
    with torch.inference_mode():
        model, vae = load_bundled_model(dtype="fp32"), bundled_vae()
        image = read_clip(
            arguments.clip, skip=arguments.skip, count=arguments.frames, width=arguments.width
        )
        clips = {"bicubic": enlarged_clip(image)}
        for name, options in ways.items():
            start = time.perf_counter()
            clips[name] = restored_clip(model, vae, image, **options)
            seconds = (time.perf_counter() - start) / len(image)
            drift = clips[name].mean((-2, -1)) - clips["bicubic"].mean((-2, -1))  # (N, 3)
            jump = 255 * drift.diff(dim=0).abs().mean()
            print(f"{name:20} {seconds:6.2f} s a frame, colours jump {jump:.3f} of 255")
        middle = len(image) // 2
        picture = draw_clips(clips, (middle, middle + 1), arguments.row)
    picture.save(arguments.output, quality=82)
    print(f"{arguments.output.stat().st_size:,} bytes, {picture.size[0]}x{picture.size[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
