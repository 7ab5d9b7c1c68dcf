"""Slips of somebody who writes a driver: a copy of the skeleton with one wrong line."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pykernel.drivers.SKELETON import SkeletonModule

SOURCE = Path(sys.modules[SkeletonModule.__module__].__file__ or "").read_text()


def slip(where: Path, method: str, line: str) -> str:
    """The path of a machine in *where* whose driver is the skeleton with *line* as the first of *method*."""
    text, n = re.subn(f"( {re.escape(method)}.*:\\n)", rf"\1        {line}\n", SOURCE)
    assert n == 1
    (where / "card.py").write_text(text)
    (where / "m.toml").write_text('[[pci]]\nmodel = "edu"\n[modules]\n"./card.py" = ""\n')
    return str(where / "m.toml")
