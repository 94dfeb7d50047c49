"""A folder through this pack's own workflow, in a real ComfyUI."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from pack.tests.support.running import InProcessComfy

pytestmark = pytest.mark.comfy
PACK_ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = json.loads((PACK_ROOT / "workflows" / "api" / "resshift_x4_bundled.json").read_text())


def pixels(file: bytes) -> bytes:
    with Image.open(io.BytesIO(file)) as picture:
        return picture.tobytes()


def test_the_bundled_workflow_gives_a_folder_what_it_gives_the_page(
    comfy: InProcessComfy, tmp_path: Path
):
    from pack.folders.workflow import derive_seed
    from pack.tests.support.folders import contents, make_job, restore_here

    sample = PACK_ROOT / "workflows" / "inputs" / "restoration_coffee.jpg"
    (tmp_path / "in").mkdir()
    with Image.open(sample) as photograph:
        photograph.crop((0, 0, 40, 24)).save(tmp_path / "in" / "a.png")
        photograph.crop((40, 30, 80, 54)).save(tmp_path / "in" / "b.png")
    (comfy.base / "input" / "folder.png").write_bytes((tmp_path / "in" / "a.png").read_bytes())
    prompt = json.loads(json.dumps(WORKFLOW))
    prompt["3"]["inputs"]["image"] = "folder.png"
    prompt["5"]["inputs"]["seed"] = 5

    for same_seed in (True, False):
        restored = restore_here(make_job(tmp_path, prompt, same_seed=same_seed))
        assert {outcome.state for outcome in restored.values()} == {"done"}
        made = contents(tmp_path / "out")
        seed = 5 if same_seed else derive_seed(5, restored["a.png"].sha256)
        prompt["5"]["inputs"]["seed"] = seed
        run = comfy.run(prompt)
        (saved,) = run.outputs["8"]["images"]
        page = comfy.base / "output" / saved["subfolder"] / saved["filename"]
        assert pixels(made["a.png"]) == pixels(page.read_bytes())
        with Image.open(io.BytesIO(made["a.png"])) as picture:
            assert json.loads(picture.info["prompt"])["5"]["inputs"]["seed"] == seed
        assert made["a.png"] != made["b.png"]
        prompt["5"]["inputs"]["seed"] = 5
