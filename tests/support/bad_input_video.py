"""Rows of docs/bad-input.md on videos, and the files that they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av

from pack.tests.support.bad_input import Row, on
from pack.tests.support.bad_input_graphs import node, picture
from pack.tests.support.videos import write_video

VIDEOS = "Videos"
VIDEO = "RestorationVideo"
WITHOUT_PICTURES, CUT = "without_pictures.mp4", "cut.mp4"
UNUSUAL = "ten_bits_turned_and_odd.mp4"


def write_bad_videos(folder: Path) -> None:
    """Write the videos of the rows into an input folder."""
    folder.mkdir(exist_ok=True)
    write_video(folder / "whole.mp4", 2)
    with (
        av.open(str(folder / "whole.mp4")) as whole,
        av.open(str(folder / WITHOUT_PICTURES), "w") as container,
    ):
        track = container.add_stream_from_template(whole.streams.audio[0])
        for packet in whole.demux(audio=0):
            if packet.dts is not None:
                packet.stream = track
                container.mux(packet)
    (folder / CUT).write_bytes((folder / "whole.mp4").read_bytes()[:500])
    write_video(
        folder / UNUSUAL, 2, 9, width=11, turned=90, pix_fmt="yuv444p10le", times=[0.0, 0.13]
    )


def file(name: str) -> dict[str, Any]:
    """Return the source of a video from a file."""
    return {"video": node("LoadVideo", file=name)}


def frames(*pictures: Any) -> dict[str, Any]:
    """Return the source of a video of emitted pictures."""
    return {"picture": picture(*pictures)}


def video_rows() -> list[Row]:
    """Return the rows."""
    return [
        Row(
            VIDEOS,
            (VIDEO,),
            "video: a file without pictures",
            "this file has no video track. Give one that has pictures.",
            on(file(WITHOUT_PICTURES)),
        ),
        Row(
            VIDEOS,
            (VIDEO,),
            "video: a file that ends after its first bytes",
            "this file is no video that FFmpeg can read, or it is damaged. Give another, or convert"
            " it to MP4 first.",
            on(file(CUT)),
        ),
        Row(
            VIDEOS,
            (VIDEO,),
            "video: a NaN pixel in what Create Video got",
            "'video' has NaN or infinite pixels; the model that made it failed, often for lack of"
            " precision: run that model in float32 (fp32).",
            on(frames("nan")),
        ),
        Row(
            VIDEOS,
            (VIDEO,),
            "video: 10 bits, turned, odd sides, frames at any time",
            "works: the result has 10 bits, is upright, and each frame has its time",
            on(file(UNUSUAL)),
            "works",
        ),
        Row(
            VIDEOS,
            (VIDEO,),
            "video: one frame",
            "works",
            on(),
            "works",
        ),
        Row(
            VIDEOS,
            (VIDEO,),
            "model: Stable Diffusion alone",
            "the model connected to 'model' is a BaseModel, not a ResShift model. Load one with 'Load"
            " ResShift Model'.",
            on(model=["sd", 0]),
        ),
        Row(
            VIDEOS,
            (VIDEO,),
            "one of DiffBIR's three parts",
            "DiffBIR needs 'clip', 'upscale_model' too. Connect them, or none of 'clip',"
            " 'control_net' and 'upscale_model' for a ResShift model.",
            on(model=["sd", 0], vae=["sd", 2], control_net=["control", 0]),
        ),
        Row(
            VIDEOS,
            (VIDEO,),
            "model: HYPIR without its CLIP",
            "there is no text encoder at 'clip'. Load a checkpoint that has one, such as"
            " v2-1_512-ema-pruned, with Load Checkpoint.",
            on(model=["hypir", 0], vae=["sd", 2]),
        ),
        Row(
            VIDEOS,
            (VIDEO,),
            "vae: Stable Diffusion's",
            "the VAE connected to 'vae' makes latents of 4 channels at 1/8 of the size, and this model"
            " needs 48 channels at 1/4. Load 'bundled' with 'Load ResShift VAE', or choose the model's"
            " right preset.",
            on(vae=["sd", 2]),
        ),
    ]
