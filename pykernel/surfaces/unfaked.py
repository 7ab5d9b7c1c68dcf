"""Where pyfakefs is at work already: the project's own files and descriptors are real ones."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

__all__ = ["unfaked"]


def unfaked() -> AbstractContextManager[Any]:
    """The body runs with pyfakefs paused, if it is active."""
    unittest = sys.modules.get("pyfakefs.fake_filesystem_unittest")
    patcher = None if unittest is None else unittest.Patcher.PATCHER
    if unittest is None or patcher is None or not patcher.is_patching:
        return nullcontext()
    pause: AbstractContextManager[Any] = unittest.Pause(patcher)
    return pause
