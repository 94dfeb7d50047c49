"""The page of figures that `bench --quality` writes."""

from __future__ import annotations

from .targets import BUNDLED, COLUMNS, TEACHER, Figures, Target

EXPLANATION = (
    "Pictures that nothing was trained on are degraded and restored whole with a fixed seed. Heavy:"
    " blur of 2 pixels, noise 12/255, JPEG 50. Light: noise 2/255, JPEG 85. Means over the pictures."
    " general-x4v3 (realesr-general-x4v3) and x4plus (RealESRGAN_x4plus) are the published networks"
    " of Real-ESRGAN. PSNR over RGB; SSIM and GMSD on luma."
)
JUDGES = (
    "- **features** is a distance of features of EfficientNet-Lite0, which the training uses, so it"
    " does not judge by itself; **features 2** one of MobileNetV2, which nothing is trained with."
    " Less is better.",
    "- **NIQE** compares a picture's statistics with those of photographs, without the original;"
    " less is better.",
    "- **grid** is the strength of the luma's spectrum at periods of 2 and 4 pixels over that at the"
    " frequencies beside them, over the original's: 1 is clean, a grid of one grey level gives 20"
    " and more.",
    "- **blotches** is the smoothed error in grey levels where the original is flat.",
    "- **energy** is the gradient energy, a measure of sharpness that dirt raises too.",
)


def format_figures(figures: Figures) -> list[str]:
    """Return a markdown table."""
    titles = [title for title, _ in COLUMNS.values()]
    lines = [
        "| degradation | picture | " + " | ".join(titles) + " |",
        "|---|---|" + "---|" * len(titles),
    ]
    for level, makers in figures.items():
        for maker, row in makers.items():
            cells = [form.format(row[key]) for key, (_, form) in COLUMNS.items()]
            lines.append(f"| {level} | {maker} | " + " | ".join(cells) + " |")
    return lines


def format_speed(seconds: dict[str, float]) -> list[str]:
    """Return a markdown table of the seconds from 256x256 to 1024x1024, by maker."""
    lines = [f"| 256x256 to 1024x1024 | seconds | {TEACHER}'s over it |", "|---|---|---|"]
    for maker, value in seconds.items():
        lines.append(f"| {maker} | {value:.2f} | {seconds[TEACHER] / value:.1f} |")
    return lines


def format_report(
    machine: str,
    groups: dict[str, Figures],
    seconds: dict[str, float],
    targets: list[Target],
) -> list[str]:
    """Return machine, tables and targets as lines of markdown."""
    lines = [machine, ""]
    for title, figures in groups.items():
        lines += [f"## {title}", "", *format_figures(figures), ""]
    if seconds:
        lines += ["## Speed", "", *format_speed(seconds), ""]
    lines += ["## Targets", "", *(f"- {target}" for target in targets)]
    return lines


def format_page(report: list[str], pictures: dict[str, list[str]], sheets: list[str]) -> str:
    """Return the page: what was done, the report, the sheets.

    Args:
        report: Lines of `format_report`.
        pictures: Names of the pictures of each group.
        sheets: Files of the sheets.
    """
    groups = "; ".join(f"{title}: {', '.join(names)}" for title, names in pictures.items())
    images = [
        line
        for sheet in sheets
        for line in (
            "",
            f"![low quality, bicubic, published networks, {BUNDLED}, original]({sheet})",
        )
    ]
    return "\n".join(
        [
            "# Figures of the bundled model",
            "",
            f"Written by `python dev.py bench --quality --write-docs`. {EXPLANATION} {groups}.",
            "",
            *JUDGES,
            "",
            *report,
            *images,
            "",
        ]
    )
