"""Conversion to safetensors keeps every number and adds the record."""

from __future__ import annotations

import pytest
import torch

from pack.model_files.convert import convert_checkpoint
from pack.model_files.manifest import read_manifest
from pack.model_loaders.checkpoint import UnsupportedCheckpointError, read_checkpoint
from pack.model_loaders.record import AUTO, PRESETS, find_record

FILES = {file.name: file for file in read_manifest().files}
UNET = FILES["resshift_realsrx4_s4_v3.pth"]


class RunsCode:
    """Unpickled as an executed call."""

    def __reduce__(self):
        return print, ("code of the file ran",)


@pytest.mark.comfy
def test_a_converted_resshift_model_loads_under_any_name_with_equal_weights(tmp_path):
    from pack.model_loaders.resshift import load_resshift
    from pack.tests.support.tiny import random_unet_weights

    weights = random_unet_weights()
    path = tmp_path / UNET.name
    torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}}, path)
    converted = convert_checkpoint(UNET, path)
    assert converted == tmp_path / "resshift_realsrx4_s4_v3.safetensors"
    assert path.is_file()
    renamed = converted.rename(tmp_path / "mine.safetensors")
    checkpoint = read_checkpoint(renamed)
    assert find_record(checkpoint, AUTO) == PRESETS["realsr x4, 4 steps (v3)"]
    assert checkpoint.state_dict.keys() == weights.keys()
    before = load_resshift(path, dtype="fp32").model.state_dict()
    after = load_resshift(renamed, dtype="fp32").model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_dtypes_stay_and_shared_or_transposed_tensors_are_written_whole(tmp_path):
    file = FILES["v2.pth"]
    half = torch.arange(6, dtype=torch.float16).reshape(2, 3)
    path = tmp_path / file.name
    torch.save({"half": half, "same": half, "turned": half.T, "count": torch.tensor(3)}, path)
    checkpoint = read_checkpoint(convert_checkpoint(file, path))
    assert checkpoint.metadata == {"format": "pt"}
    assert checkpoint.state_dict["half"].dtype == torch.float16
    assert torch.equal(checkpoint.state_dict["same"], half)
    assert torch.equal(checkpoint.state_dict["turned"], half.T)
    assert checkpoint.state_dict["count"] == 3


def test_a_file_with_code_is_refused_and_leaves_nothing(tmp_path, capsys):
    path = tmp_path / UNET.name
    torch.save({"state_dict": {"weight": torch.ones(1)}, "code": RunsCode()}, path)
    with pytest.raises(ValueError, match="holds more than weights"):
        convert_checkpoint(UNET, path)
    assert "code of the file ran" not in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]


def test_a_resshift_model_of_unknown_training_is_refused(tmp_path):
    path = tmp_path / "renamed.pth"
    torch.save({"weight": torch.ones(1)}, path)
    with pytest.raises(UnsupportedCheckpointError, match="does not say how it was trained"):
        convert_checkpoint(UNET, path)
