"""The judging of the bundled model's pictures, on small pictures and with a plain teacher."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

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

    return build_cases(Sharpener(), ("coffee", "rocket"), 96)


def test_pictures_are_judged_against_original_and_teacher(cases):
    from pack.benchmarks.judging import Judges, judge
    from pack.benchmarks.targets import BICUBIC, BUNDLED, COLUMNS, TEACHER
    from pack.training.validation import enlarge_all

    pictures = {
        BICUBIC: enlarge_all(cases),
        TEACHER: [case.teacher for case in cases],
        BUNDLED: [case.original for case in cases],
    }
    figures = judge(cases, pictures, Judges(PixelDistance(), PixelDistance()))
    assert set(figures) == set(LEVELS)
    for makers in figures.values():
        assert all(set(row) == set(COLUMNS) for row in makers.values())
        perfect = makers[BUNDLED]
        assert perfect["ssim"] == pytest.approx(1)
        assert perfect["gmsd"] == pytest.approx(0, abs=1e-9)
        assert perfect["feature"] == perfect["second"] == perfect["blotches"] == 0
        assert perfect["grid"] == perfect["original_energy"] == pytest.approx(1)
        assert makers[TEACHER]["teacher_ssim"] == pytest.approx(1)
        assert makers[TEACHER]["energy"] == pytest.approx(1)
        assert makers[BICUBIC]["energy"] < 1
        assert makers[BICUBIC]["ssim"] < 1


def test_targets_follow_the_published_networks_of_the_same_run():
    from pack.benchmarks.targets import BUNDLED, COLUMNS, GENERAL, TEACHER, check_figures

    def row(**given: float) -> dict[str, float]:
        return {**dict.fromkeys(COLUMNS, 1.0), **given}

    figures = {
        level: {
            GENERAL: row(ssim=0.70, feature=3.0, niqe=7.0, grid=1.3, blotches=1.5),
            TEACHER: row(ssim=0.66, feature=2.8, niqe=5.0, grid=1.1, blotches=1.6),
            BUNDLED: row(ssim=0.696, feature=2.9, niqe=4.9, grid=1.4, blotches=1.6, energy=0.8),
        }
        for level in LEVELS
    }
    targets = check_figures("pictures", figures)
    assert len(targets) == 22
    heavy = {(t.title, t.why): t for t in targets if t.where == "pictures, heavy"}
    missed = [str(target) for target in heavy.values() if not target.is_met]
    assert missed == [
        "missed: pictures, heavy, grid 1.40 (at most 1.30, the larger of general-x4v3's and x4plus's)",
        "missed: pictures, heavy, features 2.90 (at most 2.80, x4plus's)",
        "missed: pictures, heavy, energy / x4plus's 0.80 (at least 0.85 and at most 1.10)",
    ]
    assert heavy["SSIM", "general-x4v3's less 0.005"].least == pytest.approx(0.695)
    assert str(heavy["NIQE", "x4plus's"]) == (
        "met: pictures, heavy, NIQE 4.90 (at most 5.00, x4plus's)"
    )


def test_the_speed_is_judged_against_the_teacher_of_the_same_run():
    from pack.benchmarks.quality_page import format_speed
    from pack.benchmarks.targets import BUNDLED, TEACHER, check_speed

    seconds = {TEACHER: 3.4, BUNDLED: 0.85}
    assert [target.is_met for target in check_speed(seconds)] == [True, True]
    assert [t.is_met for t in check_speed({TEACHER: 3.4, BUNDLED: 1.2})] == [False, False]
    assert format_speed(seconds)[-1] == "| bundled | 0.85 | 4.0 |"


def test_the_bundled_model_is_judged_by_the_pipeline_and_written(tmp_path, capsys, monkeypatch):
    """With plain networks in the place of those that would be fetched."""
    from PIL import Image

    from pack.benchmarks import judging
    from pack.benchmarks.judging import Group, JudgeSettings, run_judging
    from pack.training.validation import read_picture

    monkeypatch.setattr(judging, "load_teacher", lambda cache: Sharpener())
    monkeypatch.setattr(judging, "load_general", lambda cache: Sharpener())
    monkeypatch.setattr(judging, "FeatureDistance", PixelDistance)
    monkeypatch.setattr(judging, "SecondFeatureDistance", lambda cache: PixelDistance())
    settings = JudgeSettings(None, "auto", tmp_path, kappas=(1.0,))
    groups = [Group(name, {name: read_picture(name)}, 64) for name in ("coffee", "rocket")]
    run_judging(settings, groups, tmp_path)
    printed = capsys.readouterr().out
    page = (tmp_path / judging.PAGE).read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| heavy |")]
    assert len(rows) == 2 * 6
    assert all(row in printed for row in rows)
    assert len([line for line in page.splitlines() if line.startswith(("- met", "- missed"))]) == 44
    for level in ("heavy", "light"):
        name = judging.PIECES_SHEET.format(level)
        assert name in page
        assert Image.open(tmp_path / name).size[0] > 6 * 64
    assert judging.SHEET in page


def test_another_noise_scale_keeps_the_sequence_of_eta():
    from pack.benchmarks.judging import with_kappa
    from pack.model_loaders.resshift import load_bundled_model

    model = load_bundled_model()
    for kappa in (0.5, 1.0, 3.0):
        changed = with_kappa(model, kappa).get_model_object("model_sampling").schedule
        assert changed.kappa == kappa
        torch.testing.assert_close(changed.eta(), model.model.record.schedule.eta())


def noise_columns() -> dict[str, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    noises = [torch.rand(1, 3, 200, 150, generator=generator) for _ in range(4)]
    return {"one": noises[:2], "two": noises[2:]}


def test_a_sheet_stays_within_its_bytes(tmp_path, monkeypatch):
    from pack.benchmarks import contact_sheet

    path = tmp_path / "sheet.webp"
    columns = noise_columns()
    assert contact_sheet.save_contact_sheet(path, ["a", "b"], columns) == contact_sheet.SIDES[0]
    monkeypatch.setattr(contact_sheet, "MOST_BYTES", 50_000)
    side = contact_sheet.save_contact_sheet(path, ["a", "b"], columns)
    assert side < contact_sheet.SIDES[0]
    assert path.stat().st_size <= 50_000
    monkeypatch.setattr(contact_sheet, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="fewer pictures"):
        contact_sheet.save_contact_sheet(path, ["a", "b"], columns)
    with pytest.raises(ValueError, match="fewer pieces"):
        contact_sheet.save_pieces(
            path, ["a x", "b x"], columns, [contact_sheet.Piece("a", "", 0.5, 0.5)]
        )


def test_pieces_are_shown_twice_as_large_and_lie_within_their_pictures():
    from pack.benchmarks.contact_sheet import PIECES, Piece, cut_piece, to_image

    image = to_image(noise_columns()["one"][0])
    for piece in (*PIECES, Piece("corner", "", 0.0, 1.0)):
        cut = cut_piece(image, piece, 128)
        assert cut.size == (128, 128)
        assert cut.getpixel((0, 0)) == cut.getpixel((1, 1))
    corner = cut_piece(image, Piece("corner", "", 0.0, 1.0), 128)
    assert corner.getpixel((0, 127)) == image.getpixel((0, 199))
    small = to_image(torch.rand(1, 3, 40, 30))
    assert cut_piece(small, PIECES[0], 128).size == (60, 80)
