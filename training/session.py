"""One call of the training command: photographs, pool, validation pictures, training."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .data import credits_line, fetch_photographs
from .pool import Pool, build_pool
from .teacher import load_teacher
from .trainer import Trainer, TrainSettings
from .validation import build_cases, load_cases, save_cases, write_references

LICENCE = "GPL-3.0-or-later"
TEACHER_CREDIT = "teacher RealESRGAN_x4plus by Xintao Wang et al. (BSD-3-Clause)"
FEATURE_CREDIT = "feature distance on EfficientNet-Lite0 (Apache-2.0)"


def run_session(arguments: argparse.Namespace) -> None:
    """Do whatever is left to do of the training that `arguments` describe."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # without it, steps slow down several times as activations fade
    cache: Path = arguments.cache
    run_folder = cache / "runs" / arguments.run
    run_folder.mkdir(parents=True, exist_ok=True)
    cases_path = cache / "validation.pt"
    prepare(cache, cases_path, arguments.pool_files)
    if arguments.prepare_only:
        return

    settings = TrainSettings(minutes=arguments.minutes, seed=arguments.seed)
    trainer = Trainer(settings, Pool(cache / "pool"), run_folder)
    if trainer.state_path.exists():
        trainer.load_state()
        print(f"continuing at step {trainer.step}", flush=True)
    elif arguments.resume_from:
        trainer.start_from(arguments.resume_from)
    cases = load_cases(cases_path)
    write_references(run_folder / "references.csv", cases, trainer.loss.feature_distance)
    notes = {
        "licence": LICENCE,
        "credits": "; ".join([credits_line(), TEACHER_CREDIT, FEATURE_CREDIT]),
    }
    trainer.run(cases, arguments.export, notes)


def prepare(cache: Path, cases_path: Path, pool_files: int) -> None:
    """Make the pool and the validation pictures where they are missing."""
    names = [cache / "pool" / f"tiles_{number:04d}.npz" for number in range(pool_files)]
    if cases_path.exists() and all(name.exists() for name in names):
        return
    photographs = fetch_photographs(cache)
    teacher = load_teacher(cache / "downloads")
    if not cases_path.exists():
        save_cases(cases_path, build_cases(teacher))
    build_pool(cache / "pool", photographs, teacher, range(pool_files), seed=0)
