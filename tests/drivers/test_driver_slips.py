"""A slip in a driver is an oops that names the method; the caller gets EIO, the kernel goes on."""

from __future__ import annotations

import re
from errno import EIO, ENODEV, EPERM
from functools import partial

import driver_slips
import pytest
from errnos import errno_of

import pykernel
from pykernel.drivers.SKELETON import SKELETON_FACTORIAL, skeleton_factorial
from pykernel.errors import Oops, err, is_bug, is_errno

LIVENESS = "/sys/class/skeleton/skeleton0/liveness"
SHOW, STORE, PROBE = "def liveness_show", "def liveness_store", "def probe(self, pdev"
IOCTL = "@ioctl(SKELETON_FACTORIAL)\n    def "


@pytest.fixture
def slip(tmp_path):
    """``slip(method, line)``: a machine whose driver is the skeleton with *line* as the first of that method."""

    return partial(driver_slips.slip, tmp_path)


@pytest.mark.parametrize("code", [-ENODEV, 0, 4096, 1 << 40])
def test_err_takes_errnos_only(code):
    with pytest.raises(ValueError, match=rf"^err\({code}\): an errno is 1 to 4095"):
        err(code)


def test_err_says_what_was_meant():
    with pytest.raises(ValueError, match=r": raise err\(ENODEV\)$"):
        err(-ENODEV)


def test_what_is_an_errno_and_what_is_a_bug():
    errnos = [err(EPERM), OSError(4095, "the last")]
    bugs = [OSError("text"), OSError(-19, "negative"), OSError(5000, "much"), ValueError(), Oops()]
    ends = [KeyboardInterrupt(), SystemExit(3)]  # raised by nobody in the kernel
    assert [is_errno(e) for e in errnos + bugs + ends] == [True] * 2 + [False] * 7
    assert [is_bug(e) for e in errnos + bugs + ends] == [False] * 2 + [True] * 5 + [False] * 2


@pytest.mark.parametrize(
    ("line", "oops"),
    [
        ("raise err(-ENODEV)", r"err\(-19\): an errno is 1 to 4095: raise err\(ENODEV\)"),
        ("raise OSError(-19, 'no')", r"no"),
        ("raise OSError('no number')", r"no number"),
        ("raise SystemExit(3)", r"3"),
        ("return None", r"^SkeletonDev.liveness_show\(\) returned None: it must return str$"),
        ("return -5", r"^SkeletonDev.liveness_show\(\) returned -5: raise err\(EIO\)$"),
    ],
)
def test_a_slip_in_show(slip, line, oops):
    kernel = pykernel.boot(slip(SHOW, line))
    proc = kernel.process()
    assert errno_of(proc.read_text, LIVENESS) == EIO
    with pytest.raises(BaseException, match=oops):
        raise kernel.oopses[0]
    assert proc.read_text("/sys/class/skeleton/skeleton0/dev").endswith(":0\n")


@pytest.mark.parametrize(
    ("line", "oops"),
    [
        ("return -22", r"^SkeletonDev.liveness_store\(\) returned -22: raise err\(EINVAL\)$"),
        ("return 5", r"liveness_store\(\) returned 5: it must return None, or 0 to 4, the bytes that it was given$"),
        ("return buf", r"liveness_store\(\) returned '0x1\\n': it must return None"),
        ("return True", r"liveness_store\(\) returned True: it must return None"),
    ],
)
def test_a_slip_in_store(slip, line, oops):
    kernel = pykernel.boot(slip(STORE, line))
    assert errno_of(kernel.process().write_text, LIVENESS, "0x1\n") == EIO
    with pytest.raises(Oops, match=oops):
        raise kernel.oopses[0]


def test_a_store_may_return_how_much_it_took(slip):
    kernel = pykernel.boot(slip(STORE, "return len(buf)"))
    assert errno_of(kernel.process().write_text, LIVENESS, "0x1\n") == 0
    assert kernel.oopses == []


@pytest.mark.parametrize(
    ("line", "oops"),
    [
        ("return -ENODEV", r"^SkeletonDriver.probe\(\) returned -19: raise err\(ENODEV\)$"),
        ("return pdev", r"^SkeletonDriver.probe\(\) returned .*: it must return nothing$"),
        ("raise err(-ENODEV)", r"raise err\(ENODEV\)$"),
        ("raise OSError('text')", r"^text$"),
        ("raise SystemExit(3)", r"^3$"),
    ],
)
def test_a_slip_in_probe_leaves_the_device_unbound(slip, line, oops):
    kernel = pykernel.boot(slip(PROBE, line))
    proc = kernel.process()
    assert "driver" not in proc.listdir("/sys/bus/pci/devices/0000:6a:01.0")
    with pytest.raises(BaseException, match=oops):
        raise kernel.oopses[0]


def test_a_probe_may_return_0(slip):
    kernel = pykernel.boot(slip(PROBE, "return 0"))
    assert "driver" in kernel.process().listdir("/sys/bus/pci/devices/0000:6a:01.0")
    assert kernel.oopses == []


@pytest.mark.parametrize("line", ["raise err(-ENODEV)", "raise OSError(-19, 'no')", "raise SystemExit(3)"])
def test_a_slip_in_an_ioctl(slip, line):
    kernel = pykernel.boot(slip(IOCTL, line))
    proc = kernel.process()
    fd = proc.open("/dev/skeleton0")
    assert errno_of(proc.ioctl, fd, SKELETON_FACTORIAL, skeleton_factorial(n=3)) == EIO
    assert len(kernel.oopses) == 1
    proc.close(fd)


@pytest.mark.parametrize("spawn", ["sched.call_soon", "sched.spawn", "sched.schedule_work"])
def test_sys_exit_in_the_drivers_own_work_does_not_end_the_program(slip, spawn):
    """In a work item, in a kernel thread."""
    kernel = pykernel.boot(slip(STORE, f"self.kernel.{spawn}(lambda: exit(3))"))
    assert errno_of(kernel.process().write_text, LIVENESS, "0x1\n") == 0
    assert [type(e) for e in kernel.oopses] == [SystemExit]


BIN = """        self.regs.writel(0, LIVENESS)

    bin_attrs = (BinAttr("blob", 0o600, 8, read="blob_read", write="blob_write"),)

    def blob_read(self, file, off, count):
        return {0}

    def blob_write(self, file, off, data):
        return {0}
"""


@pytest.mark.parametrize(
    ("result", "read", "write"),
    [
        ("None", "returned None: it must return bytes, 4 at most", "returned None: it must return 0 to 2"),
        ("-EIO", r"returned -5: raise err\(EIO\)", r"returned -5: raise err\(EIO\)"),
        ("bytes(5)", "returned b'.*': it must return bytes, 4 at most", "returned b'.*': it must return 0 to 2"),
    ],
)
def test_a_slip_in_a_binary_attribute(tmp_path, result, read, write):
    text, n = re.subn(r"( def liveness_store.*:\n)", lambda m: m[0] + BIN.format(result), driver_slips.SOURCE)
    assert n == 1
    text = text.replace("import AttrGroup", "import AttrGroup, BinAttr")
    text = text.replace("from errno import ", "from errno import EIO, ")
    (tmp_path / "card.py").write_text(text)
    (tmp_path / "m.toml").write_text('[[pci]]\nmodel = "edu"\n[modules]\n"./card.py" = ""\n')
    kernel = pykernel.boot(str(tmp_path / "m.toml"))
    proc = kernel.process()
    fd = proc.open("/sys/class/skeleton/skeleton0/blob", 2)
    assert errno_of(proc.pread, fd, 4, 0) == errno_of(proc.pwrite, fd, b"ab", 0) == EIO
    for oops, said in zip(kernel.oopses, (read, write), strict=True):
        with pytest.raises(Oops, match=rf"blob_\w+\(\) {said}"):
            raise oops
