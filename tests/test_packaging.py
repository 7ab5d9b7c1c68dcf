"""What users install: one top-level package, nothing missing, nothing that shadows their own folders."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("uapi", "drivers", "tools")


def sources() -> set[str]:
    """Every module and data file that the repository has, as it should be named in the wheel."""
    own = {p.relative_to(ROOT).as_posix() for p in (ROOT / "pykernel").rglob("*.py") if not p.is_symlink()}
    own = {name for name in own if name.split("/")[1] not in LINKED}
    linked = {f"pykernel/{p.relative_to(ROOT).as_posix()}" for d in LINKED for p in (ROOT / d).rglob("*.py")}
    machines = {p.relative_to(ROOT).as_posix() for p in (ROOT / "pykernel/machines").glob("*.toml")}
    return own | linked | machines | {"pykernel/py.typed"}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what git would check out: links and all."""
    work = tmp_path_factory.mktemp("wheel")
    copy = work / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "pykernel", *LINKED):
        subprocess.run(["cp", "-a", str(ROOT / name), str(copy)], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet",
         "--disable-pip-version-check", "--wheel-dir", str(work), str(copy)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = work.glob("*.whl")
    return path


def test_the_wheel_has_one_package_at_its_top(wheel):
    with zipfile.ZipFile(wheel) as z:
        tops = {name.split("/")[0] for name in z.namelist()}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"pykernel"}


def test_the_wheel_has_every_module_and_data_file(wheel):
    with zipfile.ZipFile(wheel) as z:
        names = {name for name in z.namelist() if name.startswith("pykernel/")}

    assert sources() - names == set()
    assert {name for name in names - sources() if name.endswith(".py")} == set()


def test_the_wheel_works_where_there_is_no_repository(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as z:
        z.extractall(tmp_path / "site")
    code = (
        "import pykernel, pykernel.drivers, pykernel.tools.cli, pykernel.uapi\n"
        "print(pykernel.__file__)\n"
        "proc = pykernel.boot('dsa').process()\n"
        "print(proc.read_text('/sys/bus/dsa/devices/dsa0/state'), end='')\n"
    )
    env = dict(os.environ, PYTHONPATH=str(tmp_path / "site"))

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )

    assert done.stdout == f"{tmp_path}/site/pykernel/__init__.py\ndisabled\n", done.stderr


@pytest.mark.parametrize("name", LINKED)
def test_the_folders_refuse_to_be_imported_by_their_own_name(name):
    """A driver developer's own `drivers` folder must never be mixed up with ours."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert f"ImportError: import pykernel.{name} instead" in done.stderr


@pytest.mark.parametrize("name", LINKED)
def test_the_links_are_relative(name):
    link = ROOT / "pykernel" / name

    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
