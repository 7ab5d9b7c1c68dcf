"""``pykernel demo`` tells the truth, and the test that it prints runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pykernel.profile import PROFILES
from pykernel.tools.demo.tour import PYTEST, TEXT


@pytest.mark.parametrize("profile", PROFILES)
def test_without_accel_config_the_tour_stores_the_same_attributes(pykernel, profile):
    done = pykernel("demo", "--profile", profile, PATH="/nowhere")

    assert done.returncode == 0, done.stderr
    assert "echo dedicated > /sys/bus/dsa/devices/wq0.0/mode" in done.stdout
    assert f"all {len(TEXT)} bytes are there" in done.stdout
    assert PYTEST in done.stdout


@pytest.mark.parametrize("profile", PROFILES)
def test_with_accel_config_the_real_one_configures(pykernel, fuse, require_program, profile):
    require_program("accel-config")

    done = pykernel("demo", "--profile", profile)

    assert done.returncode == 0, done.stderr
    assert "enabled 1 wq(s) out of 1" in done.stdout + done.stderr
    assert "state=enabled mode=dedicated size=16 type=user name=demo" in done.stdout
    assert f"all {len(TEXT)} bytes are there" in done.stdout


def test_the_test_that_is_printed_passes_where_it_is_pasted(tmp_path):
    (tmp_path / "test_pasted.py").write_text(PYTEST)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_pasted.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_the_printed_test_is_five_lines():
    assert len([line for line in PYTEST.splitlines() if line]) == 5
