"""The drawings of the help pages; those of photographs are made by hand, with the bundled model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.comfy

SCHEMAS = Path(__file__).resolve().parents[1] / "integration" / "schemas.json"


def test_there_is_a_picture_for_every_node():
    from pack.benchmarks.illustrations import PICTURES

    assert PICTURES.keys() == json.loads(SCHEMAS.read_text("utf-8")).keys()


def test_drawings_are_written_under_the_names_of_their_nodes(tmp_path: Path):
    from pack.benchmarks.illustrations import MOST_BYTES, write_help_pictures

    names = ("ResShiftLoader", "DiffBIRDynamicCFG", "ResidualShiftScheduler")
    written = write_help_pictures(tmp_path, names)
    for name in names:
        file = tmp_path / name / "example.jpg"
        assert file.stat().st_size == written[name] <= MOST_BYTES
        assert np.asarray(Image.open(file)).std() > 10


def test_a_picture_that_is_too_large_is_refused():
    from pack.benchmarks.illustrations import encode

    noise = np.random.default_rng(0).integers(0, 256, (800, 800, 3), np.uint8)
    with pytest.raises(ValueError, match="does not fit"):
        encode(Image.fromarray(noise))


def test_a_wiring_emphasises_the_node_it_is_about():
    from pack.benchmarks.diagrams import RESSHIFT, draw_wiring

    colour = np.array([0xFF, 0xD2, 0x7F])

    def emphasised(shown: str) -> tuple[int, int]:
        rows, columns = np.nonzero((np.asarray(draw_wiring(RESSHIFT, shown)) == colour).all(-1))
        return columns.min() // 100, rows.min() // 50

    assert emphasised("Load ResShift VAE") == (0, 0)
    assert emphasised("Finish Restoration") == (1, 5)
