"""``import pykernel`` is cheap, and gives what its ``__all__`` names."""

from __future__ import annotations

import subprocess
import sys

import pykernel


def test_the_package_gives_what_it_names() -> None:
    assert {name: getattr(pykernel, name).__name__ for name in pykernel.__all__} == {n: n for n in pykernel.__all__}


def test_importing_the_package_loads_no_part_of_it() -> None:
    code = "import sys, pykernel; print([m for m in sys.modules if m.startswith('pykernel.')])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
