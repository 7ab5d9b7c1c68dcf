"""``import pykernel``: cheap, and ``pykernel.boot`` stays the function."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "first",
    ["import pykernel", "from pykernel.boot import boot", "import pykernel.boot", "import pykernel; pykernel.boot"],
)
def test_boot_is_the_function_whatever_was_imported_first(first):
    code = (
        f"{first}\nimport pykernel\nfrom pykernel.boot import boot\nassert pykernel.boot is boot\npykernel.boot('dsa')"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_no_part_of_it():
    code = "import sys, pykernel; print([m for m in sys.modules if m.startswith('pykernel.')])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
