"""What a message says about a file that its authors released."""

from __future__ import annotations

import pytest

from pack.model_files.manifest import read_manifest
from pack.model_loaders.checkpoint import read_checkpoint
from pack.model_loaders.released import download_advice, licence_note, own_command


def test_every_released_file_is_told_with_the_command_and_its_address():
    manifest = read_manifest()
    for file in manifest.files:
        told = download_advice(f"a folder/{file.name}")
        assert f"'python dev.py models get {file.name}'" in told
        assert file.mirrors[0] in told
        assert manifest.choose([file.name]) == [file]


def test_the_command_is_the_one_that_the_pack_has(tmp_path):
    assert own_command() == "python dev.py models"
    assert own_command(tmp_path) == f'python "{tmp_path / "model_files" / "run.py"}"'


def test_nothing_is_told_about_other_files():
    assert download_advice("mine.pth") == ""


@pytest.mark.parametrize("name", ["v2.pth", "v2-1_512-ema-pruned.safetensors"])
def test_a_truncated_released_file_says_how_to_get_it(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"half")
    with pytest.raises(ValueError, match=f"truncated.*python dev.py models get {name}"):
        read_checkpoint(path)


def test_a_released_file_that_went_away_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"models get SinSR_v2\.pth"):
        read_checkpoint(tmp_path / "SinSR_v2.pth")


def test_the_terms_of_every_released_file_are_told_also_where_it_was_converted():
    for file in read_manifest().files:
        for name in (f"a folder/{file.name}", file.converted_name):
            told = licence_note(name)
            for licence in file.licences:
                assert f"{licence.title}: {licence.terms}" in told
    assert licence_note("mine.pth") == ""


def test_the_weights_of_one_call_are_for_non_commercial_use():
    for name in ("HYPIR_sd2.pth", "SinSR_v2.pth", "rsd_student_12k.safetensors"):
        assert "non-commercial use only" in licence_note(name)
