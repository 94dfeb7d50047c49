"""The judging of the bundled model's pictures, on small pictures and with a plain teacher."""

from __future__ import annotations

import pytest
import torch

from pack.training.validation import LEVELS, Case

pytestmark = pytest.mark.comfy


class Sharpener(torch.nn.Module):
    """A teacher that is a bicubic enlargement with its detail doubled."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        enlarged = torch.nn.functional.interpolate(image.float(), scale_factor=4, mode="bicubic")
        blurred = torch.nn.functional.avg_pool2d(enlarged, 5, 1, 2)
        return (2 * enlarged - blurred).to(image.dtype)


class PixelDistance(torch.nn.Module):
    """A distance of a picture to itself of 0."""

    def forward(self, image: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return (image - reference).abs().mean(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    from pack.training.validation import build_cases

    return build_cases(Sharpener(), ("coffee", "rocket"), 64)


def test_pictures_are_judged_against_original_and_teacher(cases):
    from pack.benchmarks.judging import BUNDLED, COLUMNS, judge
    from pack.training.validation import enlarge_all

    pictures = {
        "bicubic": enlarge_all(cases),
        "teacher": [case.teacher for case in cases],
        BUNDLED: [case.original for case in cases],
    }
    figures = judge(cases, pictures, PixelDistance())
    assert set(figures) == set(LEVELS)
    for makers in figures.values():
        assert all(set(row) == set(COLUMNS) for row in makers.values())
        perfect = makers[BUNDLED]
        assert perfect["ssim"] == pytest.approx(1)
        assert perfect["gmsd"] == pytest.approx(0, abs=1e-9)
        assert perfect["feature"] == 0
        assert perfect["original_energy"] == pytest.approx(1)
        assert makers["teacher"]["teacher_ssim"] == pytest.approx(1)
        assert makers["teacher"]["energy"] == pytest.approx(1)
        assert makers["bicubic"]["energy"] < 1
        assert makers["bicubic"]["ssim"] < 1


def test_targets_follow_the_teachers_lead():
    from pack.benchmarks.judging import BUNDLED, COLUMNS, check_targets

    def row(**given: float) -> dict[str, float]:
        return {**dict.fromkeys(COLUMNS, 0.0), **given}

    figures = {
        level: {
            "bicubic": row(ssim=0.6, feature=4.0),
            "teacher": row(ssim=0.7, feature=3.0, energy=1.0, teacher_ssim=1.0),
            BUNDLED: row(ssim=0.68, feature=3.3, energy=1.2, teacher_ssim=0.92),
        }
        for level in LEVELS
    }
    targets = {(target.level, target.figure): target for target in check_targets(figures)}
    assert len(targets) == 8
    assert targets["heavy", "ssim"].least == pytest.approx(0.685)
    assert targets["light", "ssim"].least == pytest.approx(0.59)
    assert targets["heavy", "feature"].most == pytest.approx(3.4)
    met = {key for key, target in targets.items() if target.is_met}
    assert met == {
        ("heavy", "teacher_ssim"),
        ("heavy", "feature"),
        ("light", "ssim"),
        ("light", "feature"),
    }
    assert str(targets["heavy", "energy"]) == (
        "missed: heavy, energy / teacher's 1.20 (at least 0.85 and at most 1.10)"
    )


def test_the_bundled_model_is_judged_by_the_pipeline_and_written(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite_pytorch")
    from PIL import Image

    from pack.benchmarks.judging import PAGE, SHEET, JudgeSettings, run_judging

    settings = JudgeSettings(None, "auto", tmp_path, ("coffee",), 64)
    run_judging(settings, tmp_path)
    printed = capsys.readouterr().out
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| heavy |")]
    assert len(rows) == 5
    assert all(row in printed for row in rows)
    assert len([line for line in page.splitlines() if line.startswith(("- met", "- missed"))]) == 8
    assert SHEET in page
    assert Image.open(tmp_path / SHEET).size[0] > 4 * 64


def test_a_sheet_stays_within_its_bytes_and_pieces_within_their_pictures(tmp_path, monkeypatch):
    from pack.benchmarks import contact_sheet

    noise = torch.rand(1, 3, 200, 150, generator=torch.Generator().manual_seed(0))
    columns = {"one": [noise, noise], "two": [noise, noise]}
    path = tmp_path / "sheet.png"
    assert contact_sheet.save_contact_sheet(path, ["a", "b"], columns) == contact_sheet.SIDES[0]
    monkeypatch.setattr(contact_sheet, "MOST_BYTES", 200_000)
    side = contact_sheet.save_contact_sheet(path, ["a", "b"], columns)
    assert side < contact_sheet.SIDES[0]
    assert path.stat().st_size <= 200_000
    monkeypatch.setattr(contact_sheet, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="fewer pictures"):
        contact_sheet.save_contact_sheet(path, ["a", "b"], columns)
    for name in (*contact_sheet.PLACES, "other"):
        left, top, right, bottom = contact_sheet.piece_box((150, 200), name, 192)
        assert (right - left, bottom - top) == (150, 192)
        assert left >= 0 <= top
        assert right <= 150
        assert bottom <= 200
