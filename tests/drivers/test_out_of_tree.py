"""Drivers and silicon that do not come with pykernel load by path and by entry point, as insmod and modprobe do."""

from __future__ import annotations

import sys
from errno import ENODEV, ENOENT, ETIMEDOUT, EWOULDBLOCK
from pathlib import Path

import pytest
from errnos import errno_of

import pykernel
from pykernel.drivers.SKELETON import SKELETON_FACTORIAL, SkeletonModule, skeleton_factorial
from pykernel.machine import MachineError

SKELETON = str(Path(sys.modules[SkeletonModule.__module__].__file__ or ""))
EDU = '[[pci]]\nmodel = "edu"\naddress = "0000:00:05.0"\n'
MODULE = """
from pykernel.base.module import Module, Param

class Hello(Module):
    "Says hello."
    name_ = "hello"
    params = (Param("who", "charp", "world"),)

    def init(self):
        self.kernel.log.printk(6, f"hello {self.param['who']}")
"""
SILICON = """
from pykernel.pci.config import ConfigSpace
from pykernel.pci.function import PciFunction

class Card(PciFunction):
    def __init__(self, revision: int = 1) -> None:
        config = ConfigSpace(0x1d0f, 0x4242, 0xff0000, revision=revision)
        config.add_bar(0, 4096, wide=False, prefetch=False)
        config.settle()
        super().__init__(config)

    def bar_read(self, bar, off, size):
        return 0x2A
"""


@pytest.fixture
def edu(tmp_path):
    """A kernel with the teaching device and the skeleton driver."""
    (tmp_path / "edu.toml").write_text(f'{EDU}[modules]\n"{SKELETON}" = "timeout_ms=50"\n')
    kernel = pykernel.boot(str(tmp_path / "edu.toml"))
    yield kernel
    kernel.shutdown()
    assert kernel.oopses == []


def test_the_skeleton_has_an_attribute_an_ioctl_a_register_and_an_interrupt(edu):
    proc = edu.process()
    proc.write_text("/sys/class/skeleton/skeleton0/liveness", "0x1\n")
    assert proc.read_text("/sys/class/skeleton/skeleton0/liveness") == "0xfffffffe\n"
    fd = proc.open("/dev/skeleton0")
    arg = skeleton_factorial(n=6)
    assert (proc.ioctl(fd, SKELETON_FACTORIAL, arg), arg.result) == (0, 720)
    assert errno_of(edu.modules.rmmod, "skeleton") == EWOULDBLOCK
    proc.write_text("/sys/bus/pci/drivers/skeleton/unbind", "0000:00:05.0")
    assert errno_of(proc.ioctl, fd, SKELETON_FACTORIAL, arg) == ENODEV
    proc.close(fd)
    edu.modules.rmmod("skeleton")
    assert errno_of(proc.stat, "/sys/class/skeleton") == ENOENT
    assert errno_of(proc.stat, "/dev/skeleton0") == ENOENT


def test_the_skeleton_gives_up_on_a_lost_interrupt(edu):
    proc = edu.process()
    fd = proc.open("/dev/skeleton0")
    with edu.faults.fail("reg", "*+0x20"):  # the write that asks for an interrupt is lost
        assert errno_of(proc.ioctl, fd, SKELETON_FACTORIAL, skeleton_factorial(n=6)) == ETIMEDOUT
    proc.exit()


@pytest.mark.parametrize("nth", range(1, 12))
def test_the_skeleton_gives_everything_back_when_its_probe_fails(tmp_path, nth):
    (tmp_path / "edu.toml").write_text(EDU)
    kernel = pykernel.boot(str(tmp_path / "edu.toml"))
    kernel.up()
    with kernel.faults.fail("alloc", nth=nth) as rule:
        try:
            kernel.modules.modprobe(SKELETON)
        except OSError:
            assert rule.fired
    if "skeleton" in kernel.modules.loaded:
        kernel.modules.rmmod("skeleton")
    assert "skeleton" not in kernel.process().listdir("/sys/class")
    kernel.modules.modprobe(SKELETON)
    assert "skeleton0" in kernel.process().listdir("/sys/class/skeleton")
    assert not kernel.oopses
    kernel.shutdown()


def test_a_module_loads_by_path_and_is_then_known_by_its_name(tmp_path):
    (tmp_path / "hello.py").write_text(MODULE)
    kernel = pykernel.boot("dsa")
    kernel.up()
    module = kernel.modules.modprobe(str(tmp_path / "hello.py"), "who=you")
    assert "hello you" in kernel.log.human()
    assert kernel.modules.modprobe("hello") is module
    assert kernel.process().read_text("/sys/module/hello/parameters/who") == "you\n"
    kernel.modules.rmmod("hello")
    kernel.modules.modprobe("hello")
    (tmp_path / "hello.py").write_text(MODULE.replace("hello {", "good morning {"))
    kernel.modules.rmmod("hello")
    kernel.modules.modprobe(str(tmp_path / "hello.py"))
    assert "good morning world" in kernel.log.human()


def test_a_module_that_nobody_has_is_enoent(tmp_path):
    kernel = pykernel.boot("dsa")
    kernel.up()
    assert errno_of(kernel.modules.modprobe, "no_such") == ENOENT
    with pytest.raises(ValueError, match=r"no\.py: No such file or directory$"):
        kernel.modules.modprobe(str(tmp_path / "no.py"))


def test_a_machine_file_names_silicon_and_module_relative_to_itself(tmp_path):
    (tmp_path / "card.py").write_text(SILICON)
    (tmp_path / "hello.py").write_text(MODULE)
    (tmp_path / "m.toml").write_text('[[pci]]\nmodel = "./card.py"\nrevision = 7\n[modules]\n"hello.py" = "who=file"\n')
    kernel = pykernel.boot(str(tmp_path / "m.toml"))
    proc = kernel.process()
    where = "/sys/bus/pci/devices/0000:6a:01.0"
    assert [proc.read_text(f"{where}/{f}") for f in ("device", "revision")] == ["0x4242\n", "0x07\n"]
    assert "hello file" in kernel.log.human()
    fd = proc.open(f"{where}/resource0", 2)
    assert proc.mem.read(proc.mmap(0, 4096, 3, 1, fd, 0), 4) == b"\x2a\0\0\0"
    proc.exit()
    kernel.shutdown()


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        ('[[pci]]\nmodel = "./no.py"', r"m\.toml:2: pci\.model: .*no\.py: No such file or directory"),
        (
            '[[pci]]\nmodel = "./card.py"\ncolour = 1',
            r"m\.toml:3: pci\.colour: .*unexpected keyword.*'colour'",
        ),
        ('[[pci]]\nmodel = "./hello.py"', r"hello\.py: it must have one class that is a PciFunction; it has none"),
        ('[modules]\n"./card.py" = ""', r"m\.toml:2: modules.*: .*card\.py: it must have one class that is a Module"),
        ('[modules]\n"./hello.py" = "whom=x"', r"m\.toml:2: modules.*whom"),
        ('[modules]\nno_such = ""', r"no such module; known: .*or the path of a \.py file"),
    ],
)
def test_what_is_wrong_is_told_with_the_line_of_the_machine_file(tmp_path, machine, said):
    (tmp_path / "card.py").write_text(SILICON)
    (tmp_path / "hello.py").write_text(MODULE)
    (tmp_path / "m.toml").write_text(machine)
    with pytest.raises(MachineError, match=said):
        pykernel.boot(str(tmp_path / "m.toml"))


def test_an_installed_package_offers_modules_and_silicon_by_entry_point(tmp_path, monkeypatch):
    meta = tmp_path / "vendor-1.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: vendor\nVersion: 1\n")
    (meta / "entry_points.txt").write_text(
        "[pykernel.modules]\nhello = vendor_hello:Hello\n[pykernel.models]\nvendor-card = vendor_card:Card\n"
    )
    (tmp_path / "vendor_hello.py").write_text(MODULE)
    (tmp_path / "vendor_card.py").write_text(SILICON)
    (tmp_path / "m.toml").write_text('[[pci]]\nmodel = "vendor-card"\n[modules]\nhello = "who=vendor"\n')
    monkeypatch.syspath_prepend(tmp_path)
    kernel = pykernel.boot(str(tmp_path / "m.toml"))
    assert kernel.process().read_text("/sys/bus/pci/devices/0000:6a:01.0/device") == "0x4242\n"
    assert "hello vendor" in kernel.log.human()
    for name in ("vendor_hello", "vendor_card"):
        monkeypatch.delitem(sys.modules, name)
