#!/usr/bin/env python3
"""Draws the picture of docs/video.md: frames and a row of pixels over time, for each way to restore.

`COMFYUI_PATH=... python benchmarks/video_pictures.py CLIP` reads a few frames of a video, reduces
them, restores them with the bundled model in each way and writes docs/video.jpg. It prints what a
frame took, how much the result flickers against the enlargement (Restoration Flicker's ratio), how
sharp it is against restoring frame by frame, and how far the mean colours go from frame to frame
where those of the enlargement do not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from worker import PACK_ROOT, set_up

TARGET = PACK_ROOT / "docs" / "video.jpg"
EACH = "different per image"
WAYS = {
    EACH: {},
    "same for all": {"batch_noise": "same for all"},
    "moving, steadiness 0.5": {"batch_noise": "moving with the picture", "steadiness": 0.5},
    "moving, steadiness 0.8": {"batch_noise": "moving with the picture", "steadiness": 0.8},
}
SHOWN = (EACH, "moving, steadiness 0.5")
COLORS = ("wavelet", "adain", "luminance")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path, help="a video")
    parser.add_argument("--skip", type=int, default=0, help="frames that are passed over")
    parser.add_argument("--frames", type=int, default=16, help="frames that are restored")
    parser.add_argument("--width", type=int, default=160, help="what they are reduced to")
    parser.add_argument("--row", type=int, default=100, help="of the result, shown over time")
    parser.add_argument("--colors", action="store_true", help="compare colour fixes; no picture")
    parser.add_argument("--output", type=Path, default=TARGET, help="where to, else docs/video.jpg")
    arguments = parser.parse_args(argv)
    set_up("fp32")
    import torch

    from pack.benchmarks import video_illustrations as illustrations

    with torch.inference_mode():
        image = illustrations.read_clip(
            arguments.clip, skip=arguments.skip, count=arguments.frames, width=arguments.width
        )
        clips, seconds = {"bicubic": illustrations.enlarged_clip(image)}, {}
        for name, options in {EACH: {}}.items() if arguments.colors else WAYS.items():
            start = time.perf_counter()
            clips[name] = illustrations.bundled_clip(image, **options)
            seconds[name] = (time.perf_counter() - start) / len(image)
        if arguments.colors:
            clips |= illustrations.with_colors(clips[EACH], clips["bicubic"], COLORS)
        for name, clip in clips.items():
            figures = illustrations.measure_clip(clip, clips["bicubic"], image, clips[EACH])
            print(f"{name:24} {seconds.get(name, 0):6.2f} s a frame  {figures}")
        if arguments.colors:
            return 0
        shown = {name: clips[name] for name in ("bicubic", *SHOWN)}
        middle = len(image) // 2
        picture = illustrations.draw_clips(shown, (middle,), arguments.row)
    picture.save(arguments.output, quality=60, optimize=True)
    print(f"{arguments.output.stat().st_size:,} bytes, {picture.size[0]}x{picture.size[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
