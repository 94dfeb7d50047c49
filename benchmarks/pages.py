"""Pages of which a benchmark writes a part."""

from __future__ import annotations

import re
from pathlib import Path


def write_section(page: Path, text: str, marks: tuple[str, str]) -> None:
    """Replace what stands between the marks of a page."""
    start, end = map(re.escape, marks)
    before = page.read_text(encoding="utf-8")
    section = f"{marks[0]}\n{text}\n{marks[1]}"
    after = re.sub(f"{start}.*{end}", lambda _: section, before, flags=re.DOTALL)
    page.write_text(after, encoding="utf-8")
