"""What the bundled model is to reach, relative to the published networks of the same run."""

from __future__ import annotations

from dataclasses import dataclass

BICUBIC = "bicubic"
GENERAL = "general-x4v3"
TEACHER = "x4plus"
BUNDLED = "bundled"
# Figures of a picture: title and form. Less is better in all but the first two, SSIM to the
# teacher's and the energies.
COLUMNS = {
    "psnr": ("PSNR", "{:.2f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "gmsd": ("GMSD", "{:.3f}"),
    "feature": ("features", "{:.2f}"),
    "second": ("features 2", "{:.2f}"),
    "niqe": ("NIQE", "{:.2f}"),
    "grid": ("grid", "{:.2f}"),
    "blotches": ("blotches", "{:.2f}"),
    "original_energy": ("energy / original's", "{:.2f}"),
    "energy": ("energy / x4plus's", "{:.2f}"),
    "teacher_ssim": ("SSIM to x4plus's", "{:.3f}"),
}
SSIM_ALLOWANCE = 0.005
ENERGY_BOUNDS = (0.85, 1.1)
LEAST_SPEED_UP = 3.0
MOST_SECONDS = 1.0

Figures = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Target:
    """A bound on one figure of the bundled model.

    Attributes:
        where: What was measured: pictures and degradation, or speed.
        title: The figure's title.
        form: Its format.
        found: The bundled model's value.
        least: Smallest value that meets it, or None.
        most: Largest value that meets it, or None.
        why: Where the bounds come from.
    """

    where: str
    title: str
    form: str
    found: float
    least: float | None = None
    most: float | None = None
    why: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the value lies within the bounds."""
        above = self.least is None or self.found >= self.least
        return above and (self.most is None or self.found <= self.most)

    def __str__(self) -> str:
        bounds = [
            f"{words} {self.form.format(bound)}"
            for words, bound in (("at least", self.least), ("at most", self.most))
            if bound is not None
        ]
        verdict = "met" if self.is_met else "missed"
        value = self.form.format(self.found)
        why = f", {self.why}" if self.why else ""
        return f"{verdict}: {self.where}, {self.title} {value} ({' and '.join(bounds)}{why})"


def check_figures(group: str, figures: Figures) -> list[Target]:
    """Return the targets of a group of pictures.

    Never worse than general-x4v3, no dirtier than the dirtier of both published networks, and beyond
    them: as near to the original's features and to a photograph's statistics as RealESRGAN_x4plus,
    as sharp, and truer to the original.
    """
    targets = []
    for level, makers in figures.items():
        general, teacher, found = makers[GENERAL], makers[TEACHER], makers[BUNDLED]
        where = f"{group}, {level}"

        def add(
            figure: str,
            least: float | None,
            most: float | None,
            why: str,
            where: str = where,
            found: dict[str, float] = found,
        ) -> None:
            title, form = COLUMNS[figure]
            targets.append(Target(where, title, form, found[figure], least, most, why))

        allowed = f"{GENERAL}'s less {SSIM_ALLOWANCE}"
        add("ssim", general["ssim"] - SSIM_ALLOWANCE, None, allowed)
        for figure in ("feature", "second", "niqe"):
            add(figure, None, general[figure], f"{GENERAL}'s")
        for figure in ("grid", "blotches"):
            most = max(general[figure], teacher[figure])
            add(figure, None, most, f"the larger of {GENERAL}'s and {TEACHER}'s")
        for figure in ("feature", "second", "niqe"):
            add(figure, None, teacher[figure], f"{TEACHER}'s")
        add("ssim", teacher["ssim"], None, f"{TEACHER}'s")
        add("energy", *ENERGY_BOUNDS, "")
    return targets


def check_speed(seconds: dict[str, float]) -> list[Target]:
    """Return the targets of the time that enlarging 256x256 to 1024x1024 takes, by maker."""
    ratio = seconds[TEACHER] / seconds[BUNDLED]
    return [
        Target("speed", f"times as fast as {TEACHER}", "{:.1f}", ratio, LEAST_SPEED_UP),
        Target(
            "speed", "seconds", "{:.2f}", seconds[BUNDLED], None, MOST_SECONDS,
            "meant for two quiet processor cores in bfloat16",
        ),
    ]  # fmt: skip
