"""``pykernel new driver``: what it makes works at once, passes its own test, and is clean under the type checker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error")


def run(*argv, cwd):
    environment = {**os.environ, "MYPYPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_new_driver_passes_its_own_test(pykernel, tmp_path):
    done = pykernel("new", "driver", "my_card", "--directory", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    made = [line.rpartition("/")[2] for line in done.stdout.split()]
    assert made == ["my_card.py", "my_card.toml", "test_my_card.py"]

    status, text = run(*PYTEST, cwd=tmp_path)

    assert status == 0, text
    assert "SKELETON" not in (tmp_path / "my_card.py").read_text().upper()


def test_a_new_driver_is_clean(pykernel, tmp_path):
    pykernel("new", "driver", "card", "-d", str(tmp_path))
    for tool in (("ruff", "check", "--isolated"), ("mypy", "--strict", "--follow-imports=silent")):
        status, text = run(sys.executable, "-m", *tool, "card.py", cwd=tmp_path)
        assert status == 0, text


def test_a_driver_with_a_fault_fails_its_test(pykernel, tmp_path):
    """The test that comes with a driver sees a mistake of each of the four parts, and what is not given back."""
    pykernel("new", "driver", "card", "-d", str(tmp_path))
    source = (tmp_path / "card.py").read_text()
    for right, wrong in (
        ("kstrtou32(buf, 0), LIVENESS", "0, LIVENESS"),
        ("self.regs.writel(status, IRQ_ACK)", "return"),
        ("self.dev.factorial(arg.n)", "arg.n"),
        ("        pdev.free_irq_vectors()\n        pdev.release_regions()\n", ""),
        ("        with self.lock:\n            if self.gone", "        if True:\n            if self.gone"),
    ):
        assert right in source
        (tmp_path / "card.py").write_text(source.replace(right, wrong))
        status, text = run(*PYTEST, cwd=tmp_path)
        assert status == 1, f"{wrong!r} passed:\n{text}"


def test_files_that_are_there_are_left_alone(pykernel, tmp_path):
    (tmp_path / "test_card.py").write_text("mine")
    done = pykernel("new", "driver", "card", "-d", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("test_card.py is there already: nothing was written\n")
    assert [p.name for p in tmp_path.iterdir()] == ["test_card.py"]


@pytest.mark.parametrize(
    "name", ["Card", "my-card", "1card", "class", "", "idxd", "skeleton", "json", "sys", "../card", "größe"]
)
def test_a_name_that_is_none(pykernel, tmp_path, name):
    done = pykernel("new", "driver", name, "-d", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("pykernel: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_no_directory(pykernel, tmp_path):
    (tmp_path / "file").write_text("")
    done = pykernel("new", "driver", "card", "-d", str(tmp_path / "file"))
    assert (done.returncode, done.stderr) == (1, f"pykernel: {tmp_path / 'file'}: File exists\n")
