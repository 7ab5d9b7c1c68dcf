"""``pykernel new``: a driver to start from, with its machine and its test."""

from __future__ import annotations

import keyword
import sys
from pathlib import Path

import click

from pykernel.tools.options import Fail

__all__ = ["command", "files"]

MACHINE = """\
# The machine that test_{name}.py boots; also: pykernel shell --machine {name}.toml

[[pci]]
model = "edu"
address = "0000:00:05.0"

[modules]
vfio_iommu_type1 = ""
"./{name}.py" = ""
"""

TEST = '''\
"""What programs may expect of {name}: they see /dev/{name}0 and /sys/class/{name}, the device does the rest."""

import fcntl
import os
from contextlib import contextmanager
from errno import EINVAL, ERANGE
from pathlib import Path

import pytest

from {name} import {upper}_FACTORIAL, {name}_factorial
from pykernel import explore
from pykernel.uapi.linux.vfio import (
    VFIO_GROUP_GET_DEVICE_FD,
    VFIO_GROUP_SET_CONTAINER,
    VFIO_SET_IOMMU,
    VFIO_TYPE1v2_IOMMU,
)

MACHINE = str(Path(__file__).with_name("{name}.toml"))
LIVENESS = "/sys/class/{name}/{name}0/liveness"
SHARES = "/sys/class/mdev_bus/0000:00:05.0/mdev_supported_types/{name}-share"
UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"

pytestmark = pytest.mark.kernel(machine=MACHINE)


def test_the_register_inverts(kernel):
    Path(LIVENESS).write_text("0x0000ffff\\n")

    assert Path(LIVENESS).read_text() == "0xffff0000\\n"


@pytest.mark.parametrize(("text", "error"), [("words", EINVAL), ("-1", EINVAL), ("0x1ffffffff", ERANGE)])
def test_a_bad_value_changes_nothing(kernel, text, error):
    before = Path(LIVENESS).read_text()

    with pytest.raises(OSError) as caught:
        Path(LIVENESS).write_text(text)

    assert caught.value.errno == error
    assert Path(LIVENESS).read_text() == before


def test_the_ioctl_waits_for_the_interrupt(kernel):
    with open("/dev/{name}0", "rb") as device:
        arg = {name}_factorial(n=5)
        fcntl.ioctl(device, {upper}_FACTORIAL, arg.memory())

    assert arg.result == 120


@explore(seeds=50)
def test_two_callers_at_once(kernel):
    def ask(n, result):
        with open("/dev/{name}0", "rb") as device:
            arg = {name}_factorial(n=n)
            fcntl.ioctl(device, {upper}_FACTORIAL, arg.memory())
        assert arg.result == result

    kernel.gather(lambda: ask(3, 6), lambda: ask(5, 120))


def test_removal_while_a_file_is_open(kernel):
    with open("/dev/{name}0", "rb") as device:
        Path("/sys/bus/pci/drivers/{name}/unbind").write_text("0000:00:05.0")

        with pytest.raises(OSError, match="No such device"):
            fcntl.ioctl(device, {upper}_FACTORIAL, {name}_factorial().memory())

    assert not Path("/dev/{name}0").exists()


@contextmanager
def opened(uuid):
    """A mediated device, as a program opens it: its group joins a container, which tells how memory is mapped."""
    number = os.path.basename(os.readlink(f"/sys/bus/mdev/devices/{{uuid}}/iommu_group"))
    container, group = os.open("/dev/vfio/vfio", os.O_RDWR), os.open(f"/dev/vfio/{{number}}", os.O_RDWR)
    fcntl.ioctl(group, VFIO_GROUP_SET_CONTAINER, container.to_bytes(4, "little"))
    fcntl.ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)
    device = fcntl.ioctl(group, VFIO_GROUP_GET_DEVICE_FD, bytearray(uuid.encode() + b"\\0"))
    try:
        yield device
    finally:
        for fd in (device, group, container):
            os.close(fd)


def test_a_share_of_the_card(kernel):
    Path(SHARES, "create").write_text(UUID)
    assert Path(SHARES, "available_instances").read_text() == "3\\n"

    with opened(UUID) as device:
        os.pwrite(device, (5).to_bytes(4, "little"), 0)
        assert int.from_bytes(os.pread(device, 4, 0), "little") == 120
        with pytest.raises(OSError, match="Invalid argument"):
            os.pwrite(device, b"12", 0)

    Path(f"/sys/bus/mdev/devices/{{UUID}}/remove").write_text("1")
    assert Path(SHARES, "available_instances").read_text() == "4\\n"


def tell(file, text):
    """One write(): a buffered one that fails is tried again when the file is closed."""
    with open(f"/sys/bus/pci/drivers/{name}/{{file}}", "wb", buffering=0) as f:
        f.write(text)


def test_every_allocation_may_fail(kernel):
    tell("unbind", b"0000:00:05.0")
    for nth in range(1, 40):
        with kernel.faults.fail("alloc", nth=nth) as rule:
            try:
                tell("bind", b"0000:00:05.0")
            except OSError:
                assert rule.fired
                assert not Path("/dev/{name}0").exists()
        if not rule.fired:
            return
    pytest.fail("bind asks for memory without an end")
'''

ADVICE = """
``pykernel new driver NAME`` makes a copy with a machine and a test; docs/tutorial.md tells how it comes about.
"""


def files(name: str) -> dict[str, str]:
    """File name -> text of the driver *name*, its machine and its test."""
    skeleton = (Path(__file__).parents[1] / "drivers" / "SKELETON.py").read_text("utf-8")
    camel = "".join(part.capitalize() for part in name.split("_"))
    driver = skeleton.replace(ADVICE, "").replace("A driver to copy", "A driver to start from")
    for old, new in (("SKELETON", name.upper()), ("Skeleton", camel), ("skeleton", name)):
        driver = driver.replace(old, new)
    return {
        f"{name}.py": driver,
        f"{name}.toml": MACHINE.format(name=name),
        f"test_{name}.py": TEST.format(name=name, upper=name.upper()),
    }


def _check(name: str) -> None:
    from pykernel.machine import DRIVERS

    if not name.isidentifier() or keyword.iskeyword(name) or not name.islower() or not name.isascii():
        raise Fail(f"{name!r} is no name for a driver: take lower-case letters, digits and _, as in my_card")
    if name in DRIVERS or name == "skeleton":
        raise Fail(f"there is a module {name!r} already: take another name")
    if name in sys.stdlib_module_names:
        raise Fail(f"Python has a module {name!r} already, which the test could not import: take another name")


@click.group()
def command() -> None:
    """Make the files of something new: a driver."""


@command.command()
@click.argument("name")
@click.option("-d", "--directory", default=".", type=click.Path(), metavar="DIR", help="Where; default: here.")
def driver(name: str, directory: str) -> None:
    """
    Make a driver that works, with its test: NAME.py, NAME.toml, test_NAME.py.

    Then: pytest test_NAME.py; pykernel shell --machine NAME.toml
    """
    _check(name)
    where = Path(directory)
    made = {where / file: text for file, text in files(name).items()}
    try:
        where.mkdir(parents=True, exist_ok=True)
        for path in made:
            if path.exists() or path.is_symlink():
                raise Fail(f"{path} is there already: nothing was written")
        for path, text in made.items():
            path.write_text(text, "utf-8")
            click.echo(path)
    except OSError as e:
        raise Fail(f"{e.filename}: {e.strerror}") from e
