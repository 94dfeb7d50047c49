"""How many pictures of a batch share each call."""

from __future__ import annotations

# One needs the least memory and is no slower on a CPU; the number is the same on every machine.
FRAMES_AT_ONCE = 1


def check_frames_at_once(frames_at_once: int) -> None:
    """Make sure that it is 1 or more.

    Raises:
        ValueError: If it is less.
    """
    if frames_at_once < 1:
        raise ValueError(f"'frames_at_once' is {frames_at_once}; it must be 1 or more.")
