"""The layers of docs/internals.md hold: import-linter checks what pyproject.toml says."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]


def contract():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]


def test_a_layer_imports_only_lower_ones():
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(cache_dir=None))"

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linked_folders_are_seen():
    """uapi, drivers and tools are links in pykernel/: a graph that does not follow them would check nothing there."""
    modules = grimp.build_graph("pykernel", cache_dir=None).modules

    for folder in ("uapi", "drivers", "tools"):
        written = {
            f"pykernel.{path.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.').removesuffix('.__init__')}"
            for path in (ROOT / folder).rglob("*.py")
        }
        assert written
        assert written - modules == set()


def test_drivers_and_silicon_meet_only_at_the_bus():
    graph = grimp.build_graph("pykernel", cache_dir=None, exclude_type_checking_imports=True)

    assert graph.find_shortest_chain("pykernel.drivers", "pykernel.hw", as_packages=True) is None
    assert graph.find_shortest_chain("pykernel.hw", "pykernel.drivers", as_packages=True) is None


def test_every_exception_is_one_of_class_kernel():
    """Only the face of the whole, class Kernel, may hand out what lies above it."""
    assert {row.split(" -> ")[0] for row in contract()["ignore_imports"]} == {"pykernel.kernel"}
