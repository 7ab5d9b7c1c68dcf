"""The errno that a call gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def errno_of(fn: Callable[..., Any], *args: Any) -> int | None:
    """0 when *fn* did not fail."""
    try:
        fn(*args)
    except OSError as e:
        return e.errno
    return 0
