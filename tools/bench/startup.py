"""How long until it can be used."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pykernel.tools.bench import fixture
from pykernel.tools.bench.measure import Row, python, wall

__all__ = ["rows"]

TIMED = "import time; {before}; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
IMPORT = "import pykernel; pykernel.boot"


def rows(*, programs: bool = True) -> Iterator[Row]:
    """Import, boot, devices up; and, with *programs*, ``pykernel run -- true``."""
    yield Row("import pykernel", python(TIMED.format(before="pass", code=IMPORT)), 0.150)
    # the second boot: what a test suite pays for each test, all code imported
    warm = "import pykernel; k = pykernel.boot('dsa'); k.up()"
    yield Row("boot dsa", python(TIMED.format(before=warm, code="k = pykernel.boot('dsa')")), 0.010)
    booted = f"{warm}; k = pykernel.boot('dsa')"
    yield Row("all devices up", python(TIMED.format(before=booted, code="k.up()")), 0.060)
    yield Row("import, boot, devices up, cold", python(TIMED.format(before="pass", code=warm)))
    yield from fixture.rows()
    if programs:
        yield Row("true", wall(["true"]))
        yield Row("python -c pass", wall([sys.executable, "-c", "pass"]))
        yield Row(
            "pykernel run -- true",
            wall([sys.executable, "-m", "pykernel.tools.cli", "run", "--", "true"]),
            0.300,
            "true",
        )
