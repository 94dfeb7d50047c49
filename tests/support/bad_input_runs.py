"""Rows of docs/bad-input.md on numbers and on what happens during a run; all rows together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pack.tests.support.bad_input import (
    LOADERS,
    Row,
    connection_rows,
    file_in,
    file_rows,
    on,
)
from pack.tests.support.bad_input_clips import clip_rows
from pack.tests.support.bad_input_faces import face_rows
from pack.tests.support.bad_input_graphs import Prompt, graph, picture
from pack.tests.support.bad_input_values import batch_rows, mask_rows, picture_rows, training_rows
from pack.tests.support.bad_input_video import video_rows

LAST_SEED = 2**64 - 1
NUMBERS = "Numbers"
RUNS = "During a run"


def number_rows() -> list[Row]:
    seeded = {
        "ResidualShiftSampler": 32,
        "ResShiftRestoreImage": 32,
        "DiffBIRConditioning": 64,
        "DiffBIRSampler": 64,
        "DiffBIRRestoreImage": 8,
        "RestorationDegrade": 8,
        "RestorationDamage": 8,
    }

    def at_seed(seed: int) -> Callable[[str], Prompt]:
        def prompt(node_id: str) -> Prompt:
            used = {"noise_aug": 1} if node_id == "DiffBIRConditioning" else {}
            return graph(node_id, seed=seed, **used)

        return prompt

    def refused(nodes: tuple[str, ...], use: str, says: str, **inputs: Any) -> Row:
        return Row(NUMBERS, nodes, use, says, on(**inputs), "refused")

    enlarging = ("DiffBIRRemoveDegradation", "DiffBIRRestoreImage", "HYPIRRestoreImage")
    stepping = ("HYPIRSingleStep", "HYPIRRestoreImage")
    return [
        *(
            Row(
                NUMBERS,
                tuple(seeded),
                f"seed: {seed}",
                "works",
                at_seed(seed),
                "works",
                lambda node_id: (1, seeded[node_id], seeded[node_id]),
            )
            for seed in (0, LAST_SEED)
        ),
        refused(
            tuple(seeded),
            "seed: one more than the last",
            f"Value {LAST_SEED + 1} bigger than max of {LAST_SEED}: seed",
            seed=LAST_SEED + 1,
        ),
        refused(tuple(seeded), "seed: -1", "Value -1 smaller than min of 0: seed", seed=-1),
        Row(
            NUMBERS,
            ("ResidualShiftSampler", "ResShiftRestoreImage", "ResidualShiftScheduler"),
            "steps: 0",
            "works, takes as many as the model was made for",
            on(steps=0),
            "works",
            lambda node_id: None if node_id == "ResidualShiftScheduler" else (1, 32, 32),
        ),
        Row(
            NUMBERS,
            ("DiffBIRSampler",),
            "steps: 0",
            "works, takes the preset's",
            on(steps=0, preset="v2.1"),
            "works",
            lambda _: (1, 64, 64),
        ),
        refused(
            ("DiffBIRSpacedScheduler", "ResShiftModelSampling"),
            "steps: 0",
            "Value 0 smaller than min of 2: steps",
            steps=0,
        ),
        refused(
            ("ResidualShiftSampler", "ResShiftRestoreImage", "DiffBIRSampler"),
            "steps: a million",
            "Value 1000000 bigger than max of 1000: steps",
            steps=1_000_000,
        ),
        refused(
            enlarging,
            "scale: a million",
            "Value 1000000.0 bigger than max of …: scale",
            scale=1e6,
        ),
        refused(
            (*enlarging, "RestorationDegrade"),
            "scale: -1",
            "Value -1… smaller than min of …: scale",
            scale=-1,
        ),
        Row(
            NUMBERS,
            enlarging,
            "scale: 8 for a side of 2100",
            "'scale' makes 16800x32 of the image's 2100x4, and no side may exceed 16384; use a"
            " smaller scale.",
            on({"picture": picture(width=2100, height=4)}, scale=8.0),
        ),
        Row(
            NUMBERS,
            enlarging,
            "scale: 0.1 for a side of 8",
            "'scale' is 0.1, which leaves nothing of an image of 8x8; use a larger one.",
            on(scale=0.1),
        ),
        Row(
            NUMBERS,
            ("RestorationDegrade",),
            "scale: 16 for a side of 8",
            "'image' is 8x8, which leaves nothing at a 'scale' of 16; choose a smaller scale or a"
            " larger image.",
            on(scale=16),
        ),
        Row(
            NUMBERS,
            ("RestorationDegrade",),
            "blur_min above blur_max",
            "'blur_min' is 5, which is more than 'blur_max', 1; exchange them, or set both.",
            on(blur_min=5.0, blur_max=1.0),
        ),
        Row(
            NUMBERS,
            ("ResShiftModelSampling",),
            "min_noise_level above etas_end",
            "min_noise_level 0.9 and etas_end 0.3 must lie in (0, 1), and the first sqrt(eta),"
            " 0.45, below etas_end. Lower min_noise_level or raise etas_end.",
            on(min_noise_level=0.9, etas_end=0.3),
        ),
        Row(
            NUMBERS,
            ("RestorationTiles",),
            "tile_overlap: as large as the tile",
            "'tile_overlap' is 64; it must be less than 'tile', 64. A quarter of it is usual.",
            on(tile=64, tile_overlap=64),
        ),
        Row(
            NUMBERS,
            ("DiffBIRRemoveDegradation",),
            "tile_overlap: as large as the tile",
            "'tile_overlap' is 64; it must be less than 'tile', 64. Half of it is usual.",
            on(tile=64, tile_overlap=64),
        ),
        Row(
            NUMBERS,
            ("DiffBIRLatentGuidance",),
            "weighting 'edges' in space 'latent'",
            "weighting 'edges' is made from a picture's edges and cannot weight latents. Set"
            " 'space' to 'rgb', or 'weighting' to 'none'.",
            on(weighting="edges"),
        ),
        refused(
            ("DiffBIRConditioning",),
            "noise_aug: 1000",
            "Value 1000 bigger than max of 999: noise_aug",
            noise_aug=1000,
        ),
        refused(
            stepping,
            "timestep: 1000",
            "Value 1000 bigger than max of 999: timestep",
            timestep=1000,
        ),
        refused(
            stepping,
            "strength: 1.5",
            "Value 1.5 bigger than max of 1.0: strength",
            strength=1.5,
        ),
        refused(
            ("RestorationMetrics",),
            "border: a million",
            "Value 1000000 bigger than max of 1024: border",
            border=1_000_000,
        ),
    ]


def run_rows() -> list[Row]:
    stopped = "stops there, and the next run is clean"
    many = {name: picture(batch=1000, height=16, width=16) for name in ("picture", "other")}

    def row(nodes: tuple[str, ...], use: str, prompt: Callable[[str], Prompt]) -> Row:
        return Row(RUNS, nodes, f"interrupted {use}", stopped, prompt, "interrupted")

    def at_ksampler(node_id: str) -> Prompt:
        guided = {"space": "rgb", "scale": 1.0} if node_id == "DiffBIRLatentGuidance" else {}
        prompt = graph(node_id, **guided)
        prompt["sampler"]["inputs"]["steps"] = 500
        return prompt

    loaders = tuple(LOADERS)
    return [
        row(
            (
                "ResidualShiftSampler",
                "ResShiftRestoreImage",
                "DiffBIRSampler",
                "DiffBIRRestoreImage",
                "RestorationVideo",
            ),
            "between steps",
            on(steps=500),
        ),
        row(
            (
                "ResShiftModelSampling",
                "DiffBIRLatentGuidance",
                "DiffBIRDynamicCFG",
                "RestorationTiles",
            ),
            "in ComfyUI's KSampler",
            at_ksampler,
        ),
        row(
            ("DiffBIRRemoveDegradation",),
            "between tiles",
            on({"picture": picture(width=1024, height=1024)}, tile=64, tile_overlap=32),
        ),
        row(
            ("RestorationDegrade", "RestorationMetrics", "RestorationFidelitySweep"),
            "between pictures",
            on(many),
        ),
        Row(
            RUNS,
            loaders,
            "its file is removed between two runs",
            "Value not in list: …: 'removed.…' not in …",
            file_in("removed"),
            "removed",
        ),
        Row(
            RUNS,
            loaders,
            "its file is removed while the run waits",
            "'removed.…' is not in models/… any more. Put it back or choose another file.",
            file_in("removed"),
            "lost",
        ),
    ]


ROWS: tuple[Row, ...] = (
    *file_rows(),
    *connection_rows(),
    *picture_rows(),
    *batch_rows(),
    *mask_rows(),
    *training_rows(),
    *face_rows(),
    *video_rows(),
    *clip_rows(),
    *number_rows(),
    *run_rows(),
)
CASES: dict[str, tuple[Row, str]] = {
    f"{node_id}: {row.use}{f' ({row.outcome})' if row.kind == 'works' else ''}": (row, node_id)
    for row in ROWS
    for node_id in row.nodes
}
