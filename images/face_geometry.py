"""Where a face lies in a picture: five points, the template, the transform between them.

Points are (x, y) in pixels, the centre of the first pixel being (0, 0), in the order left eye, right
eye, nose, left mouth corner, right mouth corner, left and right as seen in an upright face.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

TEMPLATE_PX = 512
# Where an aligned face of 512x512 has its points. Source: facexlib, as DiffBIR uses it.
TEMPLATE = (
    (192.98138, 239.94708),
    (318.90277, 240.1936),
    (256.63416, 314.01935),
    (201.26117, 371.41043),
    (313.08905, 371.15118),
)
# Around an aligned picture that reaches beyond the photograph. Source: facexlib.
OUTSIDE = (135 / 255, 133 / 255, 132 / 255)
# In MediaPipe's mesh of 468 points, or 478 with the irises: the corners of each eye, the tip of the
# nose, the corners of the mouth.
EYE_CORNERS = ((33, 133), (362, 263))
NOSE_TIP = 1
MOUTH_CORNERS = (61, 291)
MESH_POINTS = (468, 478)
# The mesh's face oval, in the order of its outline.
# fmt: off
FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152,
    148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)
# fmt: on
# Points farther from the fit than this many standard deviations do not count.
INLIER_DEVIATIONS = 2.5
# Of what rounding leaves of an exact fit.
EXACT_PX = 1e-6


def face_template() -> Tensor:
    """Return where an aligned face of 512x512 has its points, `(5, 2)` float64."""
    return torch.tensor(TEMPLATE, dtype=torch.float64)


def five_points(landmarks: Tensor) -> Tensor:
    """Return the five points of a face, `(5, 2)` float64.

    Args:
        landmarks: `(468, 2)` or `(478, 2)` points of MediaPipe's mesh.
    """
    landmarks = landmarks.double()
    eyes = [landmarks[list(corners)].mean(0) for corners in EYE_CORNERS]
    return torch.stack([*eyes, landmarks[NOSE_TIP], *landmarks[list(MOUTH_CORNERS)]])


def eye_distance(points: Tensor) -> float:
    """Return the distance of the eyes of five points `(5, 2)`, in pixels."""
    return float((points[1] - points[0]).norm())


def fit_similarity(source: Tensor, target: Tensor) -> Tensor:
    """Return the similarity transform with the least squared distance, `(2, 3)` float64.

    Args:
        source: `(N, 2)` points, at least two that differ.
        target: `(N, 2)` where they are to come.
    """
    source, target = source.double(), target.double()
    center, aim = source.mean(0), target.mean(0)
    x, y = (source - center).unbind(1)
    u, v = (target - aim).unbind(1)
    # As complex numbers: the factor a + ib that brings x + iy nearest to u + iv.
    length = (x.square() + y.square()).sum()
    a, b = (x * u + y * v).sum() / length, (x * v - y * u).sum() / length
    turn = torch.stack([torch.stack([a, -b]), torch.stack([b, a])])
    return torch.cat([turn, (aim - turn @ center)[:, None]], dim=1)


def fit_similarity_robustly(source: Tensor, target: Tensor) -> Tensor:
    """Return the similarity transform of most points, whatever the others say, `(2, 3)` float64.

    Every pair of points that differ proposes a transform; the one with the least median of squared distances
    tells which points belong to it, and these fit the result.

    Args:
        source: `(N, 2)` finite points, not all of them equal.
        target: `(N, 2)` where they are to come.

    Source: Rousseeuw 1984, "Least Median of Squares Regression".
    """
    source, target = source.double(), target.double()
    count = len(source)
    proposals = [
        fit_similarity(source[list(pair)], target[list(pair)])
        for pair in itertools.combinations(range(count), 2)
        if not torch.equal(source[pair[0]], source[pair[1]])
    ]
    squares = torch.stack([_squared_distances(matrix, source, target) for matrix in proposals])
    medians = squares.median(dim=1).values
    best = int(medians.argmin())
    # 1.4826 makes a median a normal standard deviation; the second factor is for few points.
    deviation = 1.4826 * (1 + 5 / max(1, count - 2)) * float(medians[best]) ** 0.5
    near = squares[best] <= max(INLIER_DEVIATIONS * deviation, EXACT_PX) ** 2
    return fit_similarity(source[near], target[near])


def _squared_distances(matrix: Tensor, source: Tensor, target: Tensor) -> Tensor:
    return (source @ matrix[:, :2].T + matrix[:, 2] - target).square().sum(1)
