"""Faces found, chosen, restored one by one and put back, on ComfyUI's objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pack.images.face_places import FacePlaces
from pack.images.warp import transform_points
from pack.tests.images.test_face_places import place_at

pytestmark = pytest.mark.comfy

PACK_ROOT = Path(__file__).resolve().parents[2]
# Where the three faces of the crew are, to the pixel, in an order of their own.
CREW_NOSES = ((202, 86), (106, 145), (302, 149))


@pytest.fixture(scope="module")
def crew() -> torch.Tensor:
    with Image.open(PACK_ROOT / "workflows" / "inputs" / "restoration_crew.jpg") as opened:
        return torch.from_numpy(np.asarray(opened).copy()).float()[None] / 255


@pytest.fixture(scope="module")
def found(crew: torch.Tensor) -> dict:
    from pack.pipelines.face_detection import detect_faces

    with torch.inference_mode():
        return detect_faces(crew)


def points_of(place) -> dict:
    return {"points_xy": place.points, "score": place.score}


def landmarks(frames: list, size: tuple[int, int]) -> dict:
    return {
        "frames": [[points_of(place) for place in frame] for frame in frames],
        "image_size": size,
    }


def test_every_face_of_a_group_is_found_where_it_is(found: dict):
    (faces,) = found["frames"]
    noses = sorted(tuple(face["landmarks_xy"][1]) for face in faces)
    assert len(noses) == len(CREW_NOSES)
    for nose, expected in zip(noses, sorted(CREW_NOSES), strict=True):
        assert np.abs(np.subtract(nose, expected)).max() < 6
    assert [face["score"] for face in faces] == sorted((f["score"] for f in faces), reverse=True)


def test_a_turned_and_a_small_group_are_found_too(crew: torch.Tensor):
    from pack.images.resize import resize_bicubic
    from pack.pipelines.face_detection import detect_faces

    tilted = crew[0].rot90(2)[None, :, :, :]
    small = resize_bicubic(crew.movedim(-1, 1), 165, 210).movedim(1, -1).clamp(0, 1)
    with torch.inference_mode():
        assert len(detect_faces(small)["frames"][0]) == 3
        upside_down = detect_faces(tilted)["frames"][0]
    for face in upside_down:  # found or not, a face is never put where none is
        x, y = face["landmarks_xy"][1]
        assert min(np.hypot(419 - x - a, 329 - y - b) for a, b in CREW_NOSES) < 12


def test_what_is_found_has_the_form_of_comfyuis_landmarks(found: dict, crew: torch.Tensor):
    assert found["image_size"] == tuple(crew.shape[1:3])
    face = found["frames"][0][0]
    assert face["landmarks_xy"].shape == (478, 2)
    assert face["landmarks_3d"].shape == (478, 3)
    assert face["bbox_xyxy"].shape == (4,)
    assert {len(found["connection_sets"][name]) for name in ("face_oval", "irises")} == {36, 8}


def test_comfyuis_own_nodes_draw_what_is_found(found: dict, crew: torch.Tensor):
    core = pytest.importorskip("comfy_extras.nodes_mediapipe")  # newer than the lowest ComfyUI
    (mask,) = core.MediaPipeFaceMask.execute(found, {"regions": "all"}).result
    assert mask.shape == crew.shape[:3]
    for x, y in CREW_NOSES:
        assert mask[0, y, x] == 1
    assert mask.mean() < 0.1
    choice = {"connections": "all"}
    (drawn,) = core.MediaPipeFaceMeshVisualize.execute(found, choice, "#00ff00", 1, 2, crew).result
    assert drawn.shape == crew.shape


def test_a_picture_without_faces_has_none():
    from pack.pipelines.face_detection import bounding_boxes, detect_faces

    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, 60, 90, 3, generator=generator)
    with torch.inference_mode():
        found = detect_faces(noise)
    assert found["frames"] == [[], []]
    assert bounding_boxes(found) == [[], []]


def test_boxes_and_points_lead_to_the_places_of_the_mesh(found: dict, crew: torch.Tensor):
    from pack.pipelines.face_detection import bounding_boxes
    from pack.pipelines.faces import choose_faces, merge_points, points_from_boxes, points_from_text

    places = choose_faces(found, crew).faces
    boxes = choose_faces(points_from_boxes(bounding_boxes(found), crew), crew).faces
    lines = "\n".join(" ".join(map(str, place.points.flatten().tolist())) for place in places)
    written = points_from_text(lines, crew)
    for place, from_box in zip(places, boxes, strict=True):
        # A box says nothing of a turn; these faces are nearly upright.
        assert (place.points - from_box.points).norm(dim=1).max() < 0.2 * place.side
    for place, from_text in zip(places, choose_faces(written, crew).faces, strict=True):
        assert torch.equal(place.points, from_text.points)
    assert len(merge_points(written, written)["frames"][0]) == 6


def test_points_may_name_pictures_of_a_batch():
    from pack.pipelines.faces import points_from_boxes, points_from_text

    image = torch.zeros(3, 40, 40, 3)
    numbers = "10,10 20,10 15,15 11,20 19,20"
    frames = points_from_text(f"2: {numbers}\n\n{numbers}", image)["frames"]
    assert [len(frame) for frame in frames] == [1, 0, 1]
    box = {"x": 5, "y": 5, "width": 20, "height": 30}
    for boxes, counts in ((box, [1, 0, 0]), ([box, box], [2, 0, 0]), ([[], [box]], [0, 1, 0])):
        made = points_from_boxes(boxes, image)["frames"]
        assert [len(frame) for frame in made] == counts


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, [0, 1, 2]),
        ({"choice": "largest"}, [2]),
        ({"choice": "by index", "index": 1}, [1]),
        ({"choice": "by index", "index": 7}, []),
        ({"least_eye_distance": 8.0}, [1, 2]),
    ],
)
def test_faces_are_chosen(choice: dict, expected: list[int]):
    from pack.pipelines.faces import choose_faces

    image = torch.zeros(1, 100, 300, 3)
    faces = [place_at(width, 0, 40 + 60 * k, 50) for k, width in enumerate((22, 40, 60))]
    places = choose_faces(landmarks([faces], (100, 300)), image, **choice)
    kept = [
        [torch.equal(place.points, f.points) for f in faces].index(True) for place in places.faces
    ]
    assert kept == expected


def test_faces_of_too_small_a_size_are_left_out_by_themselves():
    from pack.pipelines.faces import choose_faces

    tiny = [place_at(12, 0, 50, 50), place_at(0.0, 0, 50, 50)]
    assert choose_faces(landmarks([tiny], (99, 99)), torch.zeros(1, 99, 99, 3)).faces == ()


@pytest.mark.parametrize(
    ("box", "remedy"),
    [
        ({"x": float("nan"), "y": 0, "width": 10, "height": 20}, "mend or replace"),
        ({"x": 0, "y": 0, "width": float("inf"), "height": 20}, "mend or replace"),
        ({"x": 0, "y": 0, "width": 1e6, "height": 1e6}, "in pixels of the picture"),
    ],
)
@pytest.mark.parametrize("choice", ["all", "largest"])
def test_points_that_no_face_has_are_refused(box: dict, remedy: str, choice: str):
    from pack.pipelines.faces import choose_faces, points_from_boxes

    image = torch.zeros(1, 40, 60, 3)
    with pytest.raises(ValueError, match=remedy):
        choose_faces(points_from_boxes(box, image), image, choice=choice)


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("x", [-4000, -20, 40, 85, 4000])
def test_a_face_beyond_the_edge_is_put_back_where_it_is_seen(scale: int, x: int):
    from pack.pipelines.faces import align_faces, choose_faces, paste_faces

    generator = torch.Generator().manual_seed(3)
    image = torch.rand(1, 60, 80, 3, generator=generator)
    background = torch.rand(1, 60 * scale, 80 * scale, 3, generator=generator)
    places = choose_faces(landmarks([[place_at(70, 0, x, 30)]], (60, 80)), image, size=64)
    pasted, mask = paste_faces(background, places, 1 - align_faces(image, places))
    assert torch.equal(pasted[mask == 0], background[mask == 0])
    assert bool(mask.any()) == (abs(x) < 100)
    assert torch.equal((pasted != background).any(-1).any(), mask.any())


def test_strength_0_changes_nothing():
    from pack.pipelines.faces import align_faces, choose_faces, paste_faces

    image = torch.rand(1, 60, 80, 4, generator=torch.Generator().manual_seed(4))
    places = choose_faces(landmarks([[place_at(40, 9, 40, 30)]], (60, 80)), image, size=64)
    pasted, mask = paste_faces(image, places, 1 - align_faces(image, places), strength=0.0)
    assert torch.equal(pasted, image)
    assert not mask.any()


def test_no_face_gives_a_grey_stand_in_that_changes_nothing():
    from pack.pipelines.faces import align_faces, choose_faces, paste_faces

    image = torch.rand(2, 40, 50, 3)
    places = choose_faces(landmarks([[], []], (40, 50)), image, size=64)
    faces = align_faces(image, places)
    assert faces.shape == (1, 64, 64, 3)
    pasted, mask = paste_faces(image, places, faces)
    assert torch.equal(pasted, image)
    assert not mask.any()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_grey_and_alpha_stay_what_they_are(channels: int):
    from pack.pipelines.faces import align_faces, choose_faces, paste_faces

    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 60, 80, channels, generator=generator)
    places = choose_faces(landmarks([[place_at(40, 0, 40, 30)]], (60, 80)), image, size=64)
    faces = align_faces(image, places)
    pasted, mask = paste_faces(image, places, 1 - faces)
    assert pasted.shape == image.shape
    if channels in (2, 4):
        assert torch.equal(pasted[..., -1], image[..., -1])
    assert torch.equal(pasted[mask == 0], image[mask == 0])
    assert not torch.equal(pasted, image)


def batch_of_faces() -> tuple[torch.Tensor, dict]:
    """Return eight pictures with none to five faces."""
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(8, 96, 128, 3, generator=generator)
    frames = [
        [place_at(30 + 7 * k, 20 * k, 20 + 22 * k, 30 + 9 * number % 40) for k in range(count)]
        for number, count in enumerate((0, 1, 5, 0, 2, 3, 4, 1))
    ]
    return image, landmarks(frames, (96, 128))


def alone(faces: dict, number: int) -> dict:
    return {**faces, "frames": faces["frames"][number : number + 1]}


@pytest.mark.parametrize("likeness", [0.0, pytest.param(0.4, marks=pytest.mark.slow)])
def test_a_batch_gives_bit_for_bit_what_its_pictures_give_alone(sr, likeness: float):
    from pack.pipelines.faces import choose_faces
    from pack.pipelines.restore_faces import resshift_restorer, restore_faces

    image, faces = batch_of_faces()
    with torch.inference_mode():
        restorer = resshift_restorer(*sr, likeness=likeness)
        settings = {"size": 64}
        places = choose_faces(faces, image, **settings)
        together, masks = restore_faces(restorer, image, places, seed=5)
        for number in range(8):
            one = image[number : number + 1]
            own = choose_faces(alone(faces, number), one, **settings)
            single, mask = restore_faces(restorer, one, own, seed=5 + number)
            assert torch.equal(together[number], single[0])
            assert torch.equal(masks[number], mask[0])
    assert torch.equal(together[0], image[0])
    assert torch.equal(together[masks == 0], image[masks == 0])
    assert (together[2] - image[2]).abs().max() > 0.01


def test_found_faces_of_a_batch_are_those_of_its_pictures(crew: torch.Tensor, found: dict):
    from pack.pipelines.face_detection import detect_faces

    with torch.inference_mode():
        both = detect_faces(torch.cat([crew.flip(2), crew]))
    for face, single in zip(both["frames"][1], found["frames"][0], strict=True):
        assert np.array_equal(face["landmarks_xy"], single["landmarks_xy"])


def test_equal_faces_of_one_picture_get_noise_of_their_own():
    from pack.pipelines.faces import choose_faces
    from pack.pipelines.restore_faces import FaceRestorer, restore_faces

    image, faces = batch_of_faces()
    places = choose_faces(faces, image, size=64)

    def seeds_of(**settings) -> list[int]:
        seeds = []
        restorer = FaceRestorer(lambda face, seed, share: seeds.append(seed) or face, 1)
        restore_faces(restorer, image, places, **settings)
        return seeds

    own = seeds_of(seed=2**64 - 1)
    assert len(set(own)) == len(places.faces) == 16
    assert all(0 <= seed < 2**64 for seed in own)
    shared = seeds_of(seed=3, batch_noise="same for all")
    assert len(set(shared)) == 5  # the most faces of a picture


@pytest.mark.parametrize(
    ("side", "scale", "expected"),
    [(70, 4, 80), (64, 4, 64), (90, 2, 96), (200, 4, 128), (70, 1, 128)],
)
def test_a_model_that_enlarges_gets_a_face_at_its_own_size(side: int, scale: int, expected: int):
    from pack.pipelines.restore_faces import FaceRestorer, restore_faces

    place = place_at(side, 0, 150, 150)
    places = FacePlaces((place,), 1, 300, 300, 128)
    seen = []

    def restore(face: torch.Tensor, *_) -> torch.Tensor:
        seen.append(face.shape[1])
        return face

    restore_faces(FaceRestorer(restore, scale), torch.rand(1, 300, 300, 3), places, seed=0)
    assert seen == [expected]


def test_one_progress_bar_fills_over_all_faces(sr, monkeypatch):
    import comfy.utils

    from pack.pipelines.faces import choose_faces
    from pack.pipelines.restore_faces import resshift_restorer, restore_faces

    told = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda done, total, *_, **__: told.append((done, total))
    )
    image, faces = batch_of_faces()
    with torch.inference_mode():
        places = choose_faces(faces, image, size=64)
        restore_faces(resshift_restorer(*sr, likeness=0.0, steps=2), image, places, seed=0)
    total = 2 * len(places.faces)
    assert {whole for _, whole in told} == {total}
    done = [steps for steps, _ in told]  # ComfyUI leaves out steps that follow another at once
    assert done == sorted(done)
    assert set(done) >= {*range(1, total, 2), total}


def test_likeness_of_1_gives_the_face_that_came_in(folded):
    from pack.images.resize import resize_bicubic
    from pack.pipelines.progress import Share
    from pack.pipelines.restore_faces import resshift_restorer

    whole = Share(0, 1, 1)
    with torch.inference_mode():
        model, vae = folded
        free, bound = (resshift_restorer(model, vae, likeness=share) for share in (0.0, 1.0))
        face = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
        enlarged = resize_bicubic(face.movedim(-1, 1), 256, 256).movedim(1, -1).clamp(0, 1)
        found = bound.restore(face, 0, whole)
        assert (found - enlarged).abs().max() < 1e-3
        assert (free.restore(face, 0, whole) - found).abs().max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("size", [256, 512])
def test_faces_of_diffbir_are_restored_at_their_size(weights, size):
    from pack.pipelines.diffbir_presets import DIFFBIR_PRESETS
    from pack.pipelines.restore_faces import diffbir_restorer, restore_faces

    image = torch.rand(1, 96, 128, 3, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        restorer = diffbir_restorer(weights, DIFFBIR_PRESETS["v2.1"], likeness=0.2, steps=1)
        places = FacePlaces((place_at(50, 5, 60, 45),), 1, 96, 128, size)
        pasted, mask = restore_faces(restorer, image, places, seed=0)
    assert torch.equal(pasted[mask == 0], image[mask == 0])
    assert (pasted - image)[mask == 1].abs().max() > 0.01


def test_an_enlarged_background_takes_the_faces(sr):
    from pack.pipelines.faces import choose_faces
    from pack.pipelines.restore_faces import resshift_restorer, restore_faces

    image, faces = batch_of_faces()
    background = torch.nn.functional.interpolate(image.movedim(-1, 1), scale_factor=2)
    background = background.movedim(1, -1)
    with torch.inference_mode():
        places = choose_faces(faces, image, size=64)
        restorer = resshift_restorer(*sr, likeness=0.0)
        pasted, mask = restore_faces(restorer, image, places, seed=0, background=background)
    assert pasted.shape == background.shape
    center = transform_points(
        torch.tensor([[2.0, 0, 0.5], [0, 2.0, 0.5]]).double(), places.faces[0].points.mean(0)
    )
    x, y = (round(value) for value in center.tolist())
    assert mask[places.faces[0].picture, y, x] == 1
