"""``--modprobe`` with a driver in a file, and what the commands say of one that is being written."""

from __future__ import annotations

import os

import pytest

MODULE = """
from pykernel.base.module import Module, Param

class Card(Module):
    "A card."
    name_ = "my_card"
    params = (Param("who", "charp", "nobody"),)

    def init(self):
        self.kernel.log.printk(6, f"hello {self.param['who']}")
"""


@pytest.fixture
def machine(tmp_path):
    """The path of a machine that loads my_card by path with a parameter."""
    (tmp_path / "my_card.py").write_text(MODULE)
    (tmp_path / "m.toml").write_text('[modules]\n"./my_card.py" = "who=machine"\n')
    return str(tmp_path / "m.toml")


@pytest.mark.parametrize(
    "option", ["{relative} who=option", "{absolute} who=option", "my_card who=option", "my-card who=option"]
)
def test_the_option_wins_however_the_module_is_named(pykernel, machine, tmp_path, option):
    path = str(tmp_path / "my_card.py")
    done = pykernel("dmesg", "-m", machine, "--modprobe", option.format(relative=os.path.relpath(path), absolute=path))
    assert [line.partition("hello ")[2] for line in done.stdout.splitlines() if "hello" in line] == ["option"]
    assert done.returncode == 0


def test_the_file_of_the_option_wins_when_another_has_the_modules_name(pykernel, machine, tmp_path):
    (tmp_path / "other.py").write_text(MODULE.replace("hello", "good morning"))
    done = pykernel("dmesg", "-m", machine, "--modprobe", str(tmp_path / "other.py"))
    assert "good morning nobody" in done.stdout
    assert "hello" not in done.stdout


def test_dmesg_ends_with_70_after_an_oops(pykernel, machine, tmp_path):
    (tmp_path / "my_card.py").write_text(MODULE + "        no_such_name\n")
    done = pykernel("dmesg", "-m", machine)
    assert (done.returncode, done.stderr) == (70, "")
    assert "NameError: name 'no_such_name' is not defined" in done.stdout


def test_module_info_and_list_know_files(pykernel, machine, tmp_path):
    assert "description:    A card." in pykernel("module", "info", str(tmp_path / "my_card.py")).stdout
    assert "my_card          loaded" in pykernel("module", "list", "-m", machine).stdout
    done = pykernel("module", "info", "./no_such.py")
    assert (done.returncode, done.stderr) == (1, "pykernel: ./no_such.py: No such file or directory\n")


def test_module_list_and_info_know_packages(pykernel, tmp_path):
    (tmp_path / "vendor-1.dist-info").mkdir()
    (tmp_path / "vendor-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: vendor\nVersion: 1\n")
    (tmp_path / "vendor-1.dist-info/entry_points.txt").write_text(
        "[pykernel.modules]\nmy_card = vendor_mod:Card\nbroken = vendor_mod:No\n"
    )
    (tmp_path / "vendor_mod.py").write_text(MODULE)
    done = pykernel("module", "list", PYTHONPATH=str(tmp_path))
    assert "my_card          -\n" in done.stdout
    assert "broken           broken   entry point broken = vendor_mod:No: AttributeError" in done.stdout
    assert "A card." in pykernel("module", "info", "my-card", PYTHONPATH=str(tmp_path)).stdout
    assert "my_card" in pykernel("module", "info", "no_such", PYTHONPATH=str(tmp_path)).stderr
