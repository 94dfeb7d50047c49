"""Folders for temporary files; that ComfyUI starts is seen in test_command."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

import pytest


@pytest.mark.comfy
def test_what_a_killed_process_left_is_taken_away_and_nothing_else(tmp_path, monkeypatch):
    from pack.folders.comfyui import LEFT_FOR_S, make_temporary_folder

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = {"left": f"restoration-{ended.pid}-a", "young": f"restoration-{ended.pid}-b"}
    names |= {"working": f"restoration-{os.getpid()}-c", "strange": "restoration-of-mine"}
    old = time.time() - LEFT_FOR_S - 60
    for kind, name in names.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
        if kind != "young":
            os.utime(tmp_path / name, (old, old))
    made = make_temporary_folder()
    assert {path.name for path in tmp_path.iterdir()} == {made.name, *names.values()} - {
        names["left"]
    }
