from __future__ import annotations

import numpy as np
import torch

from pack.images.crops import random_crops


def crops(
    pictures: list[torch.Tensor], lows: list[torch.Tensor] | None, count: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    return random_crops(
        [(picture.shape[-2], picture.shape[-1]) for picture in pictures],
        lambda index: (pictures[index], None if lows is None else lows[index]),
        count,
        16,
        4,
        np.random.default_rng(seed),
    )


def clean(count: int = 3) -> list[torch.Tensor]:
    """Return pictures of several sizes in which every pixel is another."""
    sizes = [(24 + 4 * k, 32 + 8 * k) for k in range(count)]
    return [
        (torch.arange(3 * h * w).view(3, h, w) / (3 * h * w) + k) for k, (h, w) in enumerate(sizes)
    ]


def test_pieces_of_both_versions_show_the_same_place():
    pictures = clean()
    lows = [picture[:, ::4, ::4] for picture in pictures]
    pieces, low = crops(pictures, lows, 12)
    assert pieces.shape == (12, 3, 16, 16)
    assert low.shape == (12, 3, 4, 4)
    for piece, small in zip(pieces, low, strict=True):
        # Mirrored pieces begin at the other end of each group of four.
        assert torch.equal(piece[:, ::4, ::4], small) or torch.equal(piece[:, ::4, 3::4], small)


def test_every_picture_serves_as_often_as_every_other():
    pieces, _ = crops(clean(3), None, 9)
    used = pieces.mean(dim=(1, 2, 3)).floor()
    assert sorted(used.tolist()) == [0.0] * 3 + [1.0] * 3 + [2.0] * 3


def test_the_generator_decides():
    made = [crops(clean(), None, 4, s)[0] for s in (1, 1, 2)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_a_piece_of_a_pictures_own_size_is_that_picture():
    picture = torch.rand(3, 16, 16)
    pieces, low = crops([picture], None, 8)
    for piece in pieces:
        assert torch.equal(piece, picture) or torch.equal(piece, picture.flip(-1))
    assert low.shape == (8, 3, 4, 4)


def test_each_picture_is_read_once_and_only_if_a_piece_is_of_it():
    read = []

    def reader(index: int) -> tuple[torch.Tensor, None]:
        read.append(index)
        return torch.rand(3, 32, 32), None

    random_crops([(32, 32)] * 5, reader, 3, 16, 4, np.random.default_rng(0))
    assert read == [0, 1, 2]
    random_crops([(32, 32)] * 2, reader, 8, 16, 4, np.random.default_rng(0))
    assert read[3:] == [0, 1]
