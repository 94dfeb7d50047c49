"""The command line: what it lists, asks, downloads and says."""

from __future__ import annotations

import hashlib
import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pack.model_files.command import describe_progress, main
from pack.model_files.download import Progress
from pack.model_files.manifest import Licence, Manifest, ModelFile

PACK_ROOT = Path(__file__).resolve().parents[2]
CONTENT = b"weights" * 1000
STRICT = Licence("Strict Licence 1.0", "non-commercial use only", "https://example.org/strict")


class Terminal(io.StringIO):
    """A user at a keyboard."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def manifest(server):
    server.add("/one.pth", CONTENT)
    server.add("/two.pth", CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    size = len(CONTENT)
    one = ModelFile(
        "one.pth", "vae", (STRICT,), (f"{server.url}/one.pth",), ("both",), size, digest
    )
    two = ModelFile("two.pth", "controlnet", (STRICT,), (f"{server.url}/two.pth",), ("both",))
    return Manifest((one, two), {"both": "a task"})


@pytest.fixture
def get(manifest, tmp_path):
    def run(*arguments: str) -> int:
        return main(["--folder", str(tmp_path), "get", *arguments], manifest)

    return run


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a Python that has the standard library only."""
    command = [sys.executable, "-S", str(PACK_ROOT / "model_files" / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_listing_needs_the_standard_library_only_and_shows_what_is_there(tmp_path):
    for name, content in {"vae/autoencoder_vq_f4.pth": b"half", "controlnet/v2.pth": b""}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
    done = run_script("--folder", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == f"Models folder: {tmp_path}"
    assert "diffbir-v2 2 of 3 missing DiffBIR v2" in lines
    assert "v2.pth installed (controlnet/v2.pth) [Apache License 2.0]" in lines
    damaged = "damaged: has 4 bytes, expected 221,364,711 (vae/autoencoder_vq_f4.pth)"
    assert f"autoencoder_vq_f4.pth {damaged} [S-Lab License 1.0]" in lines
    assert "resshift-x4 2 of 2 missing enlarge real photographs four times in 4 steps" in lines
    missing = "BSRNet.pth missing, belongs into upscale_models"
    assert any(line.startswith(missing) for line in lines)


def test_a_task_whose_files_are_there_is_installed(manifest, tmp_path, get, capsys):
    assert get("both", "--accept-licence") == 0
    capsys.readouterr()
    assert main(["--folder", str(tmp_path)], manifest) == 0
    assert "  both  installed       a task" in capsys.readouterr().out.splitlines()


def test_a_yaml_of_other_folders_is_mentioned(manifest, tmp_path, capsys):
    (tmp_path / "models").mkdir()
    (tmp_path / "extra_model_paths.yaml").touch()
    assert main(["--folder", str(tmp_path / "models")], manifest) == 0
    assert "extra_model_paths.yaml are not searched" in capsys.readouterr().out


def test_conversion_without_torch_says_which_python_has_it_and_downloads_nothing(tmp_path):
    done = run_script("--folder", str(tmp_path), "get", "sinsr", "--accept-licence", "--convert")
    assert done.returncode == 1
    assert "--convert needs torch and safetensors" in done.stderr
    assert "Python that runs ComfyUI" in done.stderr
    assert not list(tmp_path.iterdir())


def test_without_a_keyboard_licences_are_shown_and_nothing_is_downloaded(
    get, server, tmp_path, capsys
):
    assert get("both") == 1
    shown = capsys.readouterr()
    assert "Strict Licence 1.0: non-commercial use only" in shown.out
    assert "https://example.org/strict" in shown.out
    assert "one.pth, two.pth" in shown.out
    assert "--accept-licence" in shown.err
    assert not server.resources["/one.pth"].requests
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("typed", "status"), [("y\n", 0), ("YES\n", 0), ("n\n", 1), ("\n", 1)])
def test_at_a_keyboard_the_answer_decides(get, tmp_path, monkeypatch, typed, status):
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    assert get("one") == status
    assert (tmp_path / "vae" / "one.pth").exists() == (status == 0)


def test_a_task_downloads_its_files_into_their_folders_and_says_what_was_checked(
    get, tmp_path, capsys
):
    assert get("both", "--accept-licence") == 0
    assert (tmp_path / "vae" / "one.pth").read_bytes() == CONTENT
    assert (tmp_path / "controlnet" / "two.pth").read_bytes() == CONTENT
    told = capsys.readouterr().out
    assert "7,000 bytes; its SHA-256 is right" in told
    assert "7,000 bytes; no SHA-256 is known" in told


def test_what_is_there_is_not_downloaded_and_no_licence_is_asked_for(get, server, tmp_path, capsys):
    (tmp_path / "vae" / "sub").mkdir(parents=True)
    (tmp_path / "vae" / "sub" / "one.pth").write_bytes(CONTENT)
    assert get("one") == 0
    assert "Strict" not in capsys.readouterr().out
    assert not server.resources["/one.pth"].requests


def test_a_truncated_file_is_replaced_where_it_lies(get, tmp_path, capsys):
    (tmp_path / "vae" / "sub").mkdir(parents=True)
    path = tmp_path / "vae" / "sub" / "one.pth"
    path.write_bytes(CONTENT[:5])
    assert get("one", "--accept-licence") == 0
    assert path.read_bytes() == CONTENT
    assert not (tmp_path / "vae" / "one.pth").exists()
    assert "has 5 bytes, expected 7,000: it is downloaded again" in capsys.readouterr().out


def test_a_failure_ends_with_status_1_and_its_message(get, server, capsys):
    del server.resources["/two.pth"]
    assert get("two", "--accept-licence") == 1
    assert "no such file (HTTP 404)" in capsys.readouterr().err


def test_an_interrupted_download_says_how_to_continue_and_does(get, server, tmp_path, capsys):
    resource = server.resources["/one.pth"]
    resource.before_body = lambda: signal.raise_signal(signal.SIGINT)
    assert get("one", "--accept-licence") == 130
    assert "run the same command again to continue" in capsys.readouterr().err
    assert not (tmp_path / "vae" / "one.pth").exists()
    resource.before_body = lambda: None
    assert get("one", "--accept-licence") == 0
    assert (tmp_path / "vae" / "one.pth").read_bytes() == CONTENT


def test_a_folder_that_is_not_there_is_not_made(manifest, tmp_path, capsys):
    wrong = tmp_path / "modles"
    assert main(["get", "one", "--accept-licence", "--folder", str(wrong)], manifest) == 1
    assert f"{wrong} is no folder" in capsys.readouterr().err
    assert not wrong.exists()


def test_conversion_of_what_cannot_be_read_ends_with_the_reason(get, capsys):
    assert get("one", "--accept-licence", "--convert") == 1
    assert "one.pth could not be converted" in capsys.readouterr().err


def test_a_downloaded_file_is_converted_next_to_it_once(get, server, tmp_path, capsys):
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(2)}, buffer)
    server.add("/two.pth", buffer.getvalue())
    assert get("two", "--accept-licence", "--convert") == 0
    assert (tmp_path / "controlnet" / "two.safetensors").is_file()
    assert (tmp_path / "controlnet" / "two.pth").is_file()
    assert get("two", "--convert") == 0
    assert "two.safetensors is there already" in capsys.readouterr().out
    (tmp_path / "controlnet" / "two.pth").unlink()
    assert get("two", "--convert") == 0
    assert "is a safetensors file already" in capsys.readouterr().out


def test_progress_is_told_in_size_share_speed_and_time_left():
    told = describe_progress(Progress(12_000_000, 48_000_000, 6e6))
    assert told == "12.0 MB of 48.0 MB, 25 %, 6.0 MB/s, 6 s left"
    assert describe_progress(Progress(12_000_000, None, 6e6)) == "12.0 MB, 6.0 MB/s"
