"""Tables of what `device.py` found, and the page `docs/devices.md`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

PAGE = "devices.md"
INTRODUCTION = """# Seen on devices

What `python dev.py bench --device` found on real cards: first whether the card computes what the CPU does, then how fast it is, then ComfyUI's memory modes. Networks have their released sizes and random weights, except for the bundled model; `benchmarks/README.md` says what the columns mean. A card that is not here has not been seen.
"""
NONE = "-"


def device_title(rows: Sequence[Row]) -> str:
    """Return card, driver and torch of a run."""
    facts = {row["name"]: row["value"] for row in rows if row["kind"] == "fact"}
    card, torch = facts.get("card", "unknown card"), facts.get("torch", "unknown")
    return f"{card}, driver {facts.get('driver', 'unknown')}, torch {torch}"


def render_section(rows: Sequence[Row]) -> str:
    """Return everything that a run found, as Markdown without its title."""
    parts = [
        "\n".join(fact_lines(rows)),
        table(
            "Parity",
            ("what", "precision", "error", "largest difference", "bound", ""),
            [parity_cells(row) for row in rows if is_parity(row) and not is_mode(row)],
        ),
        table(
            "Speed",
            (
                "what",
                "precision",
                "how",
                "ms a picture",
                "of the matrix rate",
                "peak MiB",
                "target ms",
                "",
            ),
            [speed_cells(row, rates_of(rows)) for row in rows if row["kind"] == "speed"],
        ),
        table(
            "Memory modes",
            ("mode", "what", "error", "bound", "first s", "again s", "weights loaded", ""),
            [mode_cells(row) for row in rows if is_parity(row) and is_mode(row)],
        ),
        table(
            "Failed or left out",
            ("part", "what", "precision", "why"),
            [error_cells(row) for row in rows if row["kind"] == "error"],
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_page(page: str, rows: Sequence[Row]) -> str:
    """Return the page with the section of a run's device put in or replaced."""
    known = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    sections = dict(section.split("\n", 1) for section in known)
    sections[device_title(rows)] = "\n" + render_section(rows)
    bodies = (f"## {title}\n\n{body.strip()}\n" for title, body in sections.items())
    return "\n".join([INTRODUCTION, *bodies])


def write_page(path: Path, rows: Sequence[Row]) -> None:
    """Write the page, with the sections of other devices that it has."""
    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    path.write_text(render_page(page, rows), encoding="utf-8")


def is_parity(row: Row) -> bool:
    return row["kind"] == "parity"


def is_mode(row: Row) -> bool:
    return row["part"].startswith("mode ")


def fact_lines(rows: Sequence[Row]) -> list[str]:
    """Return the facts as a list."""
    lines = []
    for row in rows:
        if row["kind"] != "fact":
            continue
        name, value = row["name"], row["value"]
        if name == "matrix rate":
            name, value = f"matrix rate {row['precision']}", f"{value / 1e12:.3g} TFLOP/s"
        elif name == "bandwidth":
            value = f"{value / 1e12:.3g} TB/s, read and written"
        elif name == "launch":
            value = f"{value * 1e6:.1f} µs"
        lines.append(f"- {name}: {value}")
    return lines


def rates_of(rows: Sequence[Row]) -> dict[str, float]:
    return {
        row["precision"]: row["value"]
        for row in rows
        if row["kind"] == "fact" and row["name"] == "matrix rate"
    }


def parity_cells(row: Row) -> tuple[str, ...]:
    return (
        row["name"], row["precision"], f"{row['error']:.2g}", f"{row['largest']:.2g}",
        f"{row['bound']:g}", verdict(row["passed"]),
    )  # fmt: skip


def speed_cells(row: Row, rates: dict[str, float]) -> tuple[str, ...]:
    seconds, rate = row["seconds"] / row["pictures"], rates.get(row["precision"])
    share = NONE
    if row["flops"] and rate:
        share = f"{row['flops'] / row['seconds'] / rate:.1%}"
    target = row["target"]
    return (
        row["name"],
        row["precision"],
        row["how"],
        f"{seconds * 1e3:.3g}",
        share,
        NONE if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}",
        NONE if target is None else f"{target * 1e3:.3g}",
        "" if target is None else "met" if seconds <= target else "missed",
    )


def mode_cells(row: Row) -> tuple[str, ...]:
    seconds, loaded = row.get("seconds"), row.get("loaded")
    return (
        row["part"].removeprefix("mode "),
        row["name"],
        f"{row['error']:.2g}",
        f"{row['bound']:g}",
        f"{row['first_seconds']:.2g}",
        NONE if seconds is None else f"{seconds:.2g}",
        NONE if loaded is None else f"{loaded:.0%}",
        verdict(row["passed"]),
    )


def error_cells(row: Row) -> tuple[str, ...]:
    why = row["error"].replace("|", "/").replace("\n", " ")
    return row["part"], row["name"], row.get("precision", ""), why


def verdict(passed: bool) -> str:
    return "passed" if passed else "**failed**"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table under a heading, nothing where it has no rows."""
    if not rows:
        return ""
    lines = [columns, ["---"] * len(columns), *rows]
    return f"### {title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)
