"""One call of the training command: photographs, pool, training, figures."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ..model_loaders.detection import START_PREFIX, detect_swin_unet
from ..model_loaders.networks.compact import CompactConfig
from ..model_loaders.resshift import BUNDLED_MODEL_PATH
from ..model_loaders.weight_names import key_in_files
from .curve import draw_curve
from .data import credits_line, fetch_photographs, pack_photographs
from .features import FeatureDistance, save_features
from .general import load_general, read_general
from .network import (
    CONFIG,
    RECORD,
    load_weights,
    publish_weights,
    save_weights,
    trained_weights,
)
from .pool import Pool, write_tiles
from .precision import fast_dtype
from .refit import refit_last_layer
from .start import START_PATH, build_start, cut_teacher, start_weights
from .start_trainer import START_SETTINGS, StartTrainer
from .teacher import load_packed_teacher, load_teacher, pack_teacher
from .trainer import CPU_SHAPES, Trainer, Training, TrainSettings, append_row
from .validation import build_cases, load_cases, measure, restore_all, save_cases, save_sheet

LICENCE = "GPL-3.0-or-later; start. BSD-3-Clause"
START_LICENCE = "BSD-3-Clause, as RealESRGAN_x4plus, from which it is cut; changes GPL-3.0-or-later"
TEACHER_CREDIT = "teacher: RealESRGAN_x4plus, Copyright (c) 2021 Xintao Wang (BSD-3-Clause)"
CUT_CREDIT = "start: cut from RealESRGAN_x4plus, Copyright (c) 2021 Xintao Wang (BSD-3-Clause)"
COMPACT_CREDIT = (
    "start: realesr-general-x4v3 of Real-ESRGAN, Copyright (c) 2021 Xintao Wang (BSD-3-Clause)"
)
FEATURE_CREDIT = "feature distance on EfficientNet-Lite0 (Apache-2.0)"
FIRST_SECONDS = 12.0
TILES_TIMEOUT_S = 600


def run_session(arguments: argparse.Namespace) -> None:
    """Do whatever is left to do of the training that `arguments` describe."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # without it, steps slow down several times as activations fade
    if arguments.write_tiles is not None:
        os.nice(19)  # the network's steps wait for no tile
        first, step = arguments.write_tiles
        photographs = find_photographs(arguments)
        for number in range(first, arguments.pool_files, step):
            write_tiles(pool_folder(arguments), photographs, number, seed=0)
        return
    if arguments.pack:
        pack(arguments)
        return
    if arguments.publish:
        publish_weights(arguments.publish, BUNDLED_MODEL_PATH, arguments.residual)
        return
    train(arguments)


def pool_folder(arguments: argparse.Namespace) -> Path:
    """Return where tiles lie."""
    return arguments.cache / "pool"


def find_photographs(arguments: argparse.Namespace) -> list[Path]:
    """Return the photographs, the packed ones where a pack is given."""
    if arguments.packed:
        return sorted((arguments.packed / "photographs").glob("*.webp"))
    return fetch_photographs(arguments.cache)


def pack(arguments: argparse.Namespace) -> None:
    """Write all that a training needs to a folder small enough to be carried."""
    folder: Path = arguments.pack
    pack_photographs(fetch_photographs(arguments.cache), folder / "photographs")
    teacher = load_teacher(arguments.cache / "downloads")
    pack_teacher(teacher, folder / "teacher.safetensors")
    save_features(folder / "features.safetensors")
    save_weights(folder / "general.safetensors", read_general(arguments.cache / "downloads"), {})
    save_cases(folder / "validation.pt", build_cases(teacher))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 2**20:.1f} MiB")


def train(arguments: argparse.Namespace) -> None:
    """Train, and keep what comes of it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True  # crops have a few sizes only
    name = f"{arguments.run}-start" if arguments.train_start else arguments.run
    run_folder: Path = arguments.cache / "runs" / name
    run_folder.mkdir(parents=True, exist_ok=True)
    with tile_writers(arguments):
        downloads = arguments.cache / "downloads"
        if arguments.packed:
            teacher = load_packed_teacher(arguments.packed / "teacher.safetensors")
            features = FeatureDistance(arguments.packed / "features.safetensors")
            general = load_general(load_file(arguments.packed / "general.safetensors"))
            cases_path = arguments.packed / "validation.pt"
        else:
            teacher, features = load_teacher(downloads), FeatureDistance()
            general = load_general(read_general(downloads))
            cases_path = arguments.cache / "validation.pt"
            if arguments.judge and not cases_path.exists():
                save_cases(cases_path, build_cases(teacher))
        cases = load_cases(cases_path) if arguments.judge else []
        teacher.to(device, fast_dtype(device))
        general.to(device)
        features.to(device)
        pool = Pool(pool_folder(arguments), device, teacher, general, features)
        wait_for_tiles(pool)
        settings = train_settings(arguments, device)
        state = run_folder / "state.pt"
        source: Path | None = arguments.resume_from
        if arguments.train_start:
            weights = start_weights(load_weights(source)) if source else cut_teacher(teacher)
            trainer = StartTrainer(settings, pool, weights, features, device)
        else:
            trainer = build_trainer(arguments, settings, pool, features, device)
        if arguments.refit:
            refit(trainer, arguments)
            return
        if state.exists():
            trainer.load_state(state)
            print(f"continuing at step {trainer.step}", flush=True)
        if arguments.compile:
            trainer.forward = torch.compile(trainer.network)

        def export() -> None:
            keep(trainer, run_folder, cases)
            trainer.save_state(state)

        trainer.run(run_folder / "losses.csv", arguments.export_minutes, export)


def build_trainer(
    arguments: argparse.Namespace,
    settings: TrainSettings,
    pool: Pool,
    features: FeatureDistance,
    device: torch.device,
) -> Trainer:
    """Return the training of a Swin-UNet beside the start that the arguments ask for.

    That is the start of `--start`, else that of the file that is trained on, else `START_PATH`'s.

    Raises:
        UnsupportedCheckpointError: If a file is of no such network.
    """
    source: Path | None = arguments.refit or arguments.resume_from
    known = load_weights(source) if source else {}
    holder: Path = arguments.start or source or START_PATH
    held = known if holder == source else load_weights(holder)
    start = build_start(start_weights(held), holder)
    config = CONFIG
    if source:
        config = detect_swin_unet(known, source, image_size=RECORD.image_size)
        config = replace(config, start=None)
    trainer = Trainer(settings, pool, start, features, device, config)
    if source:
        trainer.start_from(trained_weights(known))
    return trainer


def refit(trainer: Trainer, arguments: argparse.Namespace) -> None:
    """Write the file of `arguments.refit` anew beside it, its last layer refitted."""
    source: Path = arguments.refit
    weights = load_weights(source)
    refitted = refit_last_layer(trainer, arguments.minutes, arguments.residual)
    weights |= {key_in_files(name): weight.cpu() for name, weight in refitted.items()}
    with safe_open(source, framework="pt") as opened:
        notes = dict(opened.metadata())
    path = source.with_name(f"{source.stem}_refitted.safetensors")
    changes = {"residual": f"{arguments.residual:g} of {notes.get('residual', '1')}, refitted"}
    save_weights(path, weights, {**notes, **changes})
    print(f"written to {path}")


def train_settings(arguments: argparse.Namespace, device: torch.device) -> TrainSettings:
    """Return the settings that the command line and the device ask for."""
    usual = START_SETTINGS if arguments.train_start else TrainSettings()
    pairs = (given.split("=") for given in arguments.share)
    shares = {name: float(share) for name, share in pairs}
    if arguments.refit:
        usual = replace(usual, prior_share=1.0, chain_share=0.0, kappa_share=0.25)
    return replace(
        usual,
        minutes=arguments.minutes,
        seed=arguments.seed,
        matrix_rate=arguments.rates * usual.matrix_rate,
        other_rate=arguments.rates * usual.other_rate,
        shapes=usual.shapes if device.type == "cuda" else CPU_SHAPES,
        shares=replace(usual.shares, **shares),
    )


def keep(trainer: Training, run_folder: Path, cases: list) -> None:
    """Export the averaged weights, and their figures where they are asked for.

    A file of the Swin-UNet holds the start's weights too, so that it is a whole model.
    """
    start = trainer.start if isinstance(trainer, Trainer) else trainer.average
    is_compact = isinstance(start.config, CompactConfig)
    start_credit = COMPACT_CREDIT if is_compact else CUT_CREDIT
    notes = {
        "licence": START_LICENCE,
        "credits": "; ".join([credits_line(), start_credit, TEACHER_CREDIT, FEATURE_CREDIT]),
        "training": trainer.summary(),
    }
    averaged = trainer.average.state_dict().items()
    weights = {key_in_files(name): tensor.cpu() for name, tensor in averaged}
    if isinstance(trainer, Trainer):
        notes |= {"licence": LICENCE, "resshift_config": RECORD.to_json()}
        held = start.state_dict().items()
        weights |= {f"{START_PREFIX}{name}": tensor.cpu() for name, tensor in held}
    minutes = round(trainer.seconds / 60)
    save_weights(run_folder / f"export_{minutes:04d}.safetensors", weights, notes)
    print(f"exported at step {trainer.step}", flush=True)
    if cases:
        # Pictures have sizes of their own, for which no fastest way is to be looked for.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False):
            restored = restore_all(trainer.restore_picture, cases, trainer.device)
        figures = measure(cases, restored, trainer.features, trainer.device)
        figures = {"step": trainer.step, "minutes": trainer.seconds / 60, **figures}
        append_row(run_folder / "validation.csv", figures)
        print("validation " + " ".join(f"{k} {v:.4g}" for k, v in figures.items()), flush=True)
        save_sheet(run_folder / "validation.png", cases, restored)
        if (run_folder / "losses.csv").exists():
            draw_curve(run_folder, run_folder / "curve.png")


@contextmanager
def tile_writers(arguments: argparse.Namespace) -> Iterator[None]:
    """Write the pool's tiles in processes of their own meanwhile."""
    command = [sys.executable, str(Path(sys.argv[0]).resolve()), "--threads", "1"]
    command += ["--cache", str(arguments.cache), "--pool-files", str(arguments.pool_files)]
    if arguments.packed:
        command += ["--packed", str(arguments.packed)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    writers = [
        subprocess.Popen(
            [*command, "--write-tiles", str(number), str(arguments.writers)], env=environment
        )
        for number in range(arguments.writers)
    ]
    try:
        yield
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()


def wait_for_tiles(pool: Pool) -> None:
    """Read what there is of the pool, for some seconds; wait for its first file if there is none.

    Raises:
        TimeoutError: If none comes.
    """
    end = time.monotonic() + TILES_TIMEOUT_S
    while not len(pool):
        if time.monotonic() > end:
            raise TimeoutError("no tiles were written; see what the writers printed")
        pool.refresh(seconds=FIRST_SECONDS)
        time.sleep(0.2)
    pool.refresh(seconds=FIRST_SECONDS)
    print(f"{len(pool)} tiles to begin with", flush=True)
