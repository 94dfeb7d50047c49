from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from pack.model_loaders.checkpoint import Checkpoint, UnsupportedCheckpointError
from pack.model_loaders.record import (
    PRESET_CHOICES,
    PRESETS,
    RSD_X2,
    RSD_X4,
    ResShiftRecord,
    find_record,
    record_tensor,
)
from pack.samplers.schedules import ResShiftSchedule

OWN = ResShiftRecord("old film", 2, 7, 0.1, "mine.pth", 1.5, 0.95, 0.4, "residual", 32, 3)
OTHER = replace(OWN, task="other")


def checkpoint(
    name: str = "mine.safetensors",
    header: ResShiftRecord | str | None = None,
    tensor: ResShiftRecord | None = None,
) -> Checkpoint:
    weights = {"out.2.weight": torch.zeros(1)}
    if tensor is not None:
        weights["resshift_config"] = record_tensor(tensor)
    text = header.to_json() if isinstance(header, ResShiftRecord) else header
    return Checkpoint(
        Path("models", name), weights, {} if text is None else {"resshift_config": text}
    )


RELEASED = {
    "resshift_realsrx4_s15_v1.pth": (4, 15, 0.04, "autoencoder_vq_f4.pth", 0),
    "resshift_realsrx4_s15_v2.pth": (4, 15, 0.04, "autoencoder_vq_f4.pth", 0),
    "resshift_realsrx4_s4_v3.pth": (4, 4, 0.2, "autoencoder_vq_f4.pth", 0),
    "resshift_bicsrx4_s4.pth": (4, 4, 0.2, "autoencoder_vq_f4.pth", 0),
    "resshift_inpainting_imagenet_s4.pth": (1, 4, 0.2, "autoencoder_vq_f4.pth", 0),
    "resshift_inpainting_face_s4.pth": (1, 4, 0.2, "celeba256_vq_f4_dim3_face.pth", 0),
    "resshift_inpaint_imagenet_s4.pth": (1, 4, 0.2, "autoencoder_vq_f4.pth", 0),
    "resshift_inpaint_face_s4.pth": (1, 4, 0.2, "celeba256_vq_f4_dim3_face.pth", 0),
    "resshift_faceir_s4.pth": (1, 4, 0.2, "ffhq512_vq_f8_dim8_face.pth", 0),
    "resshift_bicsrx4_matlab_s15.pth": (4, 15, 0.04, "autoencoder_vq_f4.pth", 0),
    "resshift_deblur_s4.pth": (1, 4, 0.2, "autoencoder_vq_f4.pth", 0),
    "SinSR_v1.pth": (4, 15, 0.04, "autoencoder_vq_f4.pth", 1),
    "SinSR_v2.pth": (4, 15, 0.04, "autoencoder_vq_f4.pth", 1),
    "ema_model_2800.pth": (4, 15, 0.04, "autoencoder_vq_f4.pth", 1),
    "rsd_student_12k.safetensors": (4, 15, 0.04, "autoencoder_vq_f4.pth", 1),
    "Distilled-ResShift-4x.safetensors": (4, 15, 0.04, "autoencoder_vq_f4.pth", 1),
    "Distilled-ResShift-2x.safetensors": (2, 15, 0.04, "autoencoder_vq_f4.pth", 1),
    "rsd_x2.safetensors": (2, 15, 0.04, "autoencoder_vq_f4.pth", 1),
}
RSD_NAMES = ("ema_model", "rsd", "distilled")


def test_the_older_bicubic_files_differ_in_kappa():
    kappas = [
        find_record(checkpoint(f"resshift_bicsrx4_{kind}_s15.pth"), "auto").kappa
        for kind in ("opencv", "matlab")
    ]
    assert kappas == [1.0, 2.0]


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize("form", ["{}", "ResShift/{}", "My-{}", "upper"])
def test_released_names_are_known_loosely(name, form):
    spelled = name.upper() if form == "upper" else form.format(name)
    if form.startswith("My"):
        spelled = spelled.replace("_", "-")
    record = find_record(checkpoint(Path(spelled).name), "auto")
    scale, steps, level, autoencoder, calls = RELEASED[name]
    assert (record.scale, record.steps, record.min_noise_level) == (scale, steps, level)
    assert (record.autoencoder, record.sampling_steps) == (autoencoder, calls)
    assert (record.kappa, record.etas_end, record.power) == (2.0, 0.99, 0.3)
    assert (record.predict_type, record.image_size) == ("xstart", 64)
    assert record.noise_channels == name.lower().startswith(RSD_NAMES)


@pytest.mark.parametrize(
    ("key", "preset"),
    [("out.2.weight", RSD_X4), ("feature_extractor.0.weight", RSD_X2)],
)
def test_a_converted_student_of_rsd_is_known_by_its_header(key: str, preset: str):
    header = {"noise_mode": "concat", "noise_channels": "1"}
    student = Checkpoint(Path("net.safetensors"), {key: torch.zeros(1)}, header)
    assert find_record(student, "auto") == PRESETS[preset]
    assert find_record(student, preset) == PRESETS[preset]
    with pytest.raises(ValueError, match=rf"sees a channel of noise.*Set preset to '{preset}'"):
        find_record(student, "realsr x4, 15 steps (v1)")


@pytest.mark.parametrize("count", ["0", "", " 0 "])
def test_a_header_without_noise_says_nothing(count: str):
    student = Checkpoint(Path("net.safetensors"), {"a": torch.zeros(1)}, {"noise_channels": count})
    with pytest.raises(UnsupportedCheckpointError, match="does not say how it was trained"):
        find_record(student, "auto")


def test_a_record_of_its_own_is_asked_before_the_header_of_others():
    header = {"noise_channels": "1", "resshift_config": OWN.to_json()}
    student = Checkpoint(Path("net.safetensors"), {"a": torch.zeros(1)}, header)
    assert find_record(student, "auto") == OWN


def test_every_preset_is_a_working_schedule_and_a_choice():
    assert ("auto", *PRESETS) == PRESET_CHOICES
    for record in PRESETS.values():
        assert len(record.schedule.eta()) == record.steps


def test_auto_prefers_the_header_to_the_tensor_and_the_tensor_to_the_name():
    name = "resshift_realsrx4_s4_v3.safetensors"
    assert find_record(checkpoint(name, header=OWN, tensor=OTHER), "auto") == OWN
    assert find_record(checkpoint(name, tensor=OTHER), "auto") == OTHER
    assert find_record(checkpoint(name), "auto") == PRESETS["realsr x4, 4 steps (v3)"]


@pytest.mark.parametrize("place", ["header", "tensor"])
def test_a_preset_wins_and_the_contradiction_is_logged(caplog, place):
    preset = "deblurring, 4 steps"
    with caplog.at_level(logging.WARNING):
        record = find_record(checkpoint(**{place: OWN}), preset)
    assert record == PRESETS[preset]
    assert len(caplog.records) == 1
    assert "mine.safetensors" in caplog.text
    assert "old film" in caplog.text
    assert preset in caplog.text


def test_a_preset_that_agrees_is_not_worth_a_line(caplog):
    preset = "deblurring, 4 steps"
    with caplog.at_level(logging.DEBUG):
        assert find_record(checkpoint(header=PRESETS[preset]), preset) == PRESETS[preset]
        assert find_record(checkpoint(), preset) == PRESETS[preset]
    assert not caplog.records


def test_a_file_that_tells_nothing_lists_the_presets():
    with pytest.raises(UnsupportedCheckpointError, match=r"'net.pth'.*Set preset") as error:
        find_record(checkpoint("net.pth"), "auto")
    assert all(f"'{name}'" in str(error.value) for name in PRESETS)


def test_an_unknown_preset_lists_the_presets():
    with pytest.raises(ValueError, match="no preset 'x8'; choose one of 'realsr x4"):
        find_record(checkpoint(), "x8")


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        "[1, 2]",
        "null",
        "7",
        '{"task": "x"}',
        json.dumps({**asdict(OWN), "predict_type": "velocity"}),
        json.dumps({**asdict(OWN), "scale": 0}),
        json.dumps({**asdict(OWN), "scale": 1.5}),
        json.dumps({**asdict(OWN), "steps": 1}),
        json.dumps({**asdict(OWN), "kappa": -2}),
        json.dumps({**asdict(OWN), "steps": "four"}),
        json.dumps({**asdict(OWN), "etas_end": None}),
    ],
)
def test_a_damaged_record_is_refused_with_the_presets(damage):
    with pytest.raises(ValueError, match=r"record in 'mine.safetensors' is damaged.*Set preset"):
        find_record(checkpoint(header=damage), "auto")


def test_a_damaged_tensor_is_refused_too():
    damaged = checkpoint()
    damaged.state_dict["resshift_config"] = torch.tensor([255, 254, 0], dtype=torch.uint8)
    with pytest.raises(ValueError, match="is damaged"):
        find_record(damaged, "auto")


def test_json_gives_the_record_back():
    assert ResShiftRecord(**json.loads(OWN.to_json())) == OWN
    assert find_record(checkpoint(header=OWN), "auto") == OWN
    assert "\n" not in OWN.to_json()


def test_the_tensor_gives_the_record_back_also_with_other_letters():
    record = replace(OWN, task="Fotos für Zoë, 修復")
    tensor = record_tensor(record)
    assert tensor.dtype == torch.uint8
    assert tensor.ndim == 1
    assert bytes(tensor.tolist()).decode() == record.to_json()
    assert find_record(checkpoint(tensor=record), "auto") == record


def test_a_record_may_hold_free_text_and_leave_out_what_has_a_default():
    text = json.dumps(
        {
            "task": "photos",
            "scale": 4,
            "steps": 4,
            "min_noise_level": 0.2,
            "autoencoder": "a",
            "licence": "CC0",
            "training": {"hours": 10},
        }
    )
    record = find_record(checkpoint(header=text), "auto")
    assert record == ResShiftRecord("photos", 4, 4, 0.2, "a")


def test_a_record_takes_the_numbers_of_another_schedule():
    schedule = ResShiftSchedule(9, 3.0, 0.3, 0.9, 0.5)
    changed = OWN.with_schedule(schedule)
    assert changed.schedule == schedule
    assert replace(changed, **asdict(OWN.schedule)) == OWN


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 10**12}, "steps 1000000000000 is not a whole number from 2 to 1000"),
        ({"steps": True}, "steps True is not a whole number"),
        ({"scale": 2.0}, r"scale 2\.0 is not a whole number from 1 to 16"),
        ({"scale": 1000}, "scale 1000 is not a whole number from 1 to 16"),
        ({"image_size": 0}, "image_size 0 is not a whole number from 1 to 4096"),
        ({"image_size": 10**9}, "image_size 1000000000 is not"),
        ({"sampling_steps": -1}, "sampling_steps -1 is not a whole number from 0"),
        ({"task": None}, "task None is not a text"),
        ({"autoencoder": ["a"]}, r"autoencoder \['a'\] is not a text"),
        ({"kappa": float("nan")}, "must lie in"),
        ({"power": 1e300}, "does not rise"),
    ],
)
def test_a_record_with_absurd_numbers_is_refused_before_anything_is_built(values, message):
    text = json.dumps({**asdict(OWN), **values})
    with pytest.raises(ValueError, match=rf"record in 'mine\.safetensors' is damaged.*{message}"):
        find_record(checkpoint(header=text), "auto")


def test_a_record_of_endless_brackets_is_refused():
    with pytest.raises(ValueError, match=r"record in 'mine\.safetensors' is damaged"):
        find_record(checkpoint(header="[" * 100_000), "auto")
