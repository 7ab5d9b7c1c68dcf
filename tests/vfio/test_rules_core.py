"""
Containers, groups, descriptors of devices: a row for each rule of drivers/vfio/container.c, group.c and vfio_main.c.

With type 1 as the IOMMU driver. What takes more than one call to tell is in the other files beside this one.
"""

from __future__ import annotations

import struct
from errno import EBADF, EBADFD, EBUSY, EFAULT, EINVAL, ENODEV, ENOENT, ENOTTY, ENXIO, EPERM
from typing import Any

import pytest
from errnos import errno_of
from type1box import emulated, machine, physical
from vfiotoy import Toy, add_toy, get_device_fd, open_group, set_container

import pykernel
from pykernel.base.core import Device
from pykernel.errors import err
from pykernel.machine import parse
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.container import IommuDrivers
from pykernel.vfio.main import vfio_register_group_dev, vfio_unregister_group_dev

BOTH = ["linux-6.1", "linux-6.12"]
API, CHECK, SET_IOMMU = 0x3B64, 0x3B65, 0x3B66
STATUS, SET, UNSET, GET_FD = 0x3B67, 0x3B68, 0x3B69, 0x3B6A
GET_INFO, MAP, UNMAP, UNKNOWN, DIRTY = 0x3B70, 0x3B71, 0x3B72, 0x3B73, 0x3B75


class World:
    """A machine with a device that does DMA, one that does not, one without an IOMMU, and a client."""

    def __init__(self, profile: str, **kw: Any) -> None:
        self.profile, self.old = profile, profile == "linux-6.1"
        self.kernel = pykernel.boot(parse(machine(1, **kw)), profile, config=("VFIO_NOIOMMU",))
        (self.card,) = physical(self.kernel).vdevs
        self.emu = emulated(self.kernel)
        self.proc = self.kernel.process()
        self.proc.write_text("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "1")
        dev = Device(self.kernel, "bare0")
        dev.register()
        self.bare = Toy(dev, [])
        vfio_register_group_dev(self.bare)

    def result(self, fd: int, cmd: int, arg: Any = 0, proc: Any = None) -> int:
        """What an ioctl returns, or minus its errno."""
        try:
            return int((proc or self.proc).ioctl(fd, cmd, arg))
        except OSError as e:
            return -(e.errno or 0)

    def container(self, *vdevs: Any, kind: int = 0) -> int:
        """With the groups of *vdevs*, and with an IOMMU of *kind*."""
        c = self.proc.open("/dev/vfio/vfio", 2)
        self.groups = [open_group(self.proc, vdev) for vdev in vdevs]
        for group in self.groups:
            set_container(self.proc, group, c)
        if kind:
            self.proc.ioctl(c, SET_IOMMU, kind)
        return c

    def nobody(self) -> Any:
        """A child that has all descriptors and no rights."""
        child = self.proc.fork()
        child.setuid(65534)
        return child

    def end(self) -> None:
        self.proc.exit()
        assert not self.kernel.oopses


@pytest.fixture(params=BOTH)
def w(request):
    world = World(request.param)
    yield world
    world.end()


# ---- what a container answers in each of its states

STATES = {
    "no group": lambda w: w.container(),
    "a group": lambda w: w.container(w.card),
    "an IOMMU": lambda w: w.container(w.card, kind=3),
    "no IOMMU, and used": lambda w: w.container(w.bare, kind=8),
}
ANSWERS = {
    # number, argument: the answer in each state
    "GET_API_VERSION": (API, 0, (0, 0, 0, 0)),
    "CHECK_EXTENSION 3": (CHECK, 3, (1, 1, 1, 0)),
    "CHECK_EXTENSION 8": (CHECK, 8, (1, 0, 0, 1)),
    "CHECK_EXTENSION 99": (CHECK, 99, (0, 0, 0, 0)),
    "SET_IOMMU 3": (SET_IOMMU, 3, (-EINVAL, 0, -EINVAL, -EINVAL)),
    "SET_IOMMU 8": (SET_IOMMU, 8, (-EINVAL, -ENODEV, -EINVAL, -EINVAL)),
    "SET_IOMMU 2": (SET_IOMMU, 2, (-EINVAL, -ENODEV, -EINVAL, -EINVAL)),
    "GET_STATUS, of a group": (STATUS, 8, (-EINVAL, -EINVAL, -ENOTTY, -ENOTTY)),
    "GET_INFO": (GET_INFO, 8, (-EINVAL, -EINVAL, -EFAULT, -ENOTTY)),
    "MAP_DMA": (MAP, 8, (-EINVAL, -EINVAL, -EFAULT, -ENOTTY)),
    "UNMAP_DMA": (UNMAP, 8, (-EINVAL, -EINVAL, -EFAULT, -ENOTTY)),
    "DIRTY_PAGES": (DIRTY, 8, (-EINVAL, -EINVAL, -EFAULT, -ENOTTY)),
    "one that nobody has": (UNKNOWN, 8, (-EINVAL, -EINVAL, -ENOTTY, -ENOTTY)),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("call", ANSWERS)
def test_a_container_in_each_state(w, state, call):
    """
    drivers/vfio/container.c:vfio_fops_unl_ioctl().

    Once there is a group not all drivers are asked: vfio_iommu_driver_allowed() leaves out who cannot be chosen.
    """
    cmd, arg, answers = ANSWERS[call]
    wanted = answers[list(STATES).index(state)]
    assert w.result(STATES[state](w), cmd, arg) == wanted


# extension: without an IOMMU, with a domain that snoops, with one that does not, with emulated devices only
EXTENSIONS = {
    1: (1, 1, 1, 1), 2: (0, 0, 0, 0), 3: (1, 1, 1, 1), 4: (0, 1, 0, 1), 5: (0, 0, 0, 0), 6: (1, 1, 1, 1),
    7: (0, 0, 0, 0), 9: (1, 1, 1, 1), 10: (0, 1, 1, 0), 11: (0, 0, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("number", EXTENSIONS)
def test_extensions_of_type_1(profile, number):
    """drivers/vfio/vfio_iommu_type1.c:vfio_iommu_type1_check_extension()."""
    found = []
    for snoop in (True, False):
        w = World(profile, snoop=snoop)
        empty = w.container()
        full = w.container(w.card, kind=3)
        found.append([w.result(c, CHECK, number) for c in (empty, full)])
        other = w.container(w.emu, kind=3)
        found[-1].append(w.result(other, CHECK, number))
        w.end()
    (empty, snoops, alone), (empty_too, plain, alone_too) = found
    assert (empty, snoops, plain, alone) == EXTENSIONS[number]
    assert (empty_too, alone_too) == (empty, alone)


def _last_error(w: World) -> int:
    c = w.container(w.emu)
    driver: Any = next(d for d in w.kernel.sub(IommuDrivers).drivers if d.name == "vfio-iommu-type1")

    def refuse(*_: Any) -> None:
        raise err(EBUSY)

    driver.attach_group = refuse
    return w.result(c, SET_IOMMU, 3)


def _without_rights(w: World) -> int:
    c = w.container(w.bare)
    child = w.nobody()
    answer = w.result(c, SET_IOMMU, 8, child)
    child.exit()
    return answer


SET_IOMMU_ERRORS = {
    "no group": (lambda w: w.result(w.container(), SET_IOMMU, 3), -EINVAL),
    "it has one": (lambda w: w.result(w.container(w.emu, kind=3), SET_IOMMU, 3), -EINVAL),
    "no driver of that type": (lambda w: w.result(w.container(w.emu), SET_IOMMU, 2), -ENODEV),
    "a pointer": (lambda w: w.result(w.container(w.emu), SET_IOMMU, w.proc.mem.alloc(4)), -ENODEV),
    "what the last driver said": (_last_error, -EBUSY),
    "unprotected, without CAP_SYS_RAWIO": (_without_rights, -EPERM),
}


@pytest.mark.parametrize("row", SET_IOMMU_ERRORS)
def test_set_iommu(w, row):
    """drivers/vfio/container.c:vfio_ioctl_set_iommu()."""
    ask, wanted = SET_IOMMU_ERRORS[row]
    assert ask(w) == wanted


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize(("allow", "wanted"), [(0, -EPERM), (1, 0)], ids=["refused", "allow_unsafe_interrupts"])
def test_set_iommu_without_interrupt_remapping(profile, allow, wanted):
    w = World(profile, remap=False)
    w.proc.write_text("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", str(allow))
    assert w.result(w.container(w.card), SET_IOMMU, 3) == wanted
    w.end()


# ---- opening a group


def _open_by_node(w: World) -> int | None:
    if w.old:
        return EBUSY  # Linux 6.1 has no nodes of devices: nothing to ask
    (name,) = w.proc.listdir("/sys/devices/emu0/vfio-dev")
    node, iommufd = w.proc.open(f"/dev/vfio/devices/{name}", 2), w.proc.open("/dev/iommu", 2)
    assert w.result(node, 0x3B76, bytearray(struct.pack("<4I", 16, 0, iommufd, 0))) == 0
    return errno_of(open_group, w.proc, w.emu)


def _open_twice(w: World, how: str) -> int | None:
    open_group(w.proc, w.emu)
    who = {"itself": w.proc, "another": w.kernel.process()}[how]
    return errno_of(open_group, who, w.emu)


def _open_unprotected(w: World) -> int | None:
    w.proc.chmod(f"/dev/vfio/{w.bare.the_group.name}", 0o666)
    return errno_of(w.nobody().open, f"/dev/vfio/{w.bare.the_group.name}", 2)


def _open_what_goes(w: World) -> int | None:
    toy = add_toy(w.kernel)
    group, inode = toy.the_group, w.proc.fds.get(open_group(w.proc, w.emu)).inode
    vfio_unregister_group_dev(toy)
    return errno_of(group.open, inode, 2)  # by who had found the node before it went


def _open_what_went(w: World) -> int | None:
    toy = add_toy(w.kernel)
    path = f"/dev/vfio/{toy.the_group.name}"
    vfio_unregister_group_dev(toy)
    return errno_of(w.proc.open, path, 2)


OPENS = {
    "open, by itself": (lambda w: _open_twice(w, "itself"), EBUSY),
    "open, by another": (lambda w: _open_twice(w, "another"), EBUSY),
    "a device in use by its node": (_open_by_node, EBUSY),
    "unprotected, without CAP_SYS_RAWIO": (_open_unprotected, EPERM),
    "being taken down": (_open_what_goes, ENODEV),
    "gone": (_open_what_went, ENOENT),
    "free": (lambda w: errno_of(open_group, w.proc, w.emu), 0),
}


@pytest.mark.parametrize("row", OPENS)
def test_opening_a_group(w, row):
    """drivers/vfio/group.c:vfio_group_fops_open()."""
    ask, wanted = OPENS[row]
    assert ask(w) == wanted


# ---- what a group answers


def _status(w: World, vdev: Any, *, contained: bool = False) -> int:
    if contained:
        w.container(vdev)
    g = w.groups[0] if contained else open_group(w.proc, vdev)
    row = v.vfio_group_status(argsz=8)
    return w.result(g, STATUS, row) or int(row.flags)


def _pass(w: World, fd: int, group: int = -1) -> int:
    """VFIO_GROUP_SET_CONTAINER."""
    group = open_group(w.proc, w.emu) if group < 0 else group
    return w.result(group, SET, bytearray(struct.pack("<i", fd)))


def _gone(w: World, cmd: int) -> int:
    toy = add_toy(w.kernel)
    c, g = w.container(), open_group(w.proc, toy)
    vfio_unregister_group_dev(toy)
    arg = {STATUS: v.vfio_group_status(argsz=8), SET: bytearray(struct.pack("<i", c)), GET_FD: bytearray(b"toy0\0")}
    return w.result(g, cmd, arg.get(cmd, 0))


def _taken(w: World) -> int:
    return _pass(w, w.container(w.emu), w.groups[0])


def _unprotected_by_nobody(w: World) -> int:
    c, g = w.container(), open_group(w.proc, w.bare)
    child = w.nobody()
    answer = w.result(g, SET, bytearray(struct.pack("<i", c)), child)
    child.exit()
    return answer


def _mixed(w: World, first: Any, second: Any) -> int:
    return _pass(w, w.container(first), open_group(w.proc, second))


def _not_viable(w: World) -> int:
    group: Any = w.card.dev.iommu_group
    g = open_group(w.proc, w.card)
    group.claim_dma_owner(w.kernel)
    answer = _pass(w, w.container(), g)
    group.release_dma_owner()
    return answer


def _refused(w: World) -> int:
    """An address was taken back: no group may come (vfio_iommu_type1_attach_group())."""
    c = w.container(w.card, kind=3)
    page = w.proc.mem.alloc(8192) + 4095 & ~4095
    w.proc.ioctl(c, MAP, bytearray(struct.pack("<IIQQQ", 32, 3, page, 0, 4096)))
    w.proc.ioctl(c, UNMAP, bytearray(struct.pack("<IIQQ", 24, 4, 0, 4096)))
    return _pass(w, c)


def _unset(w: World, *, opened: bool) -> int:
    w.container(w.emu, kind=3)
    if opened:
        get_device_fd(w.proc, w.groups[0], "emu0")
    return w.result(w.groups[0], UNSET)


def _name(w: World, name: bytes | int, vdev: Any = None, kind: int = 3) -> int:
    """VFIO_GROUP_GET_DEVICE_FD; 1 for a descriptor."""
    w.container(vdev or w.emu, kind=kind)
    arg = name if isinstance(name, int) else bytearray(name + b"\0")
    return min(w.result(w.groups[0], GET_FD, arg), 1)


def _driver_says(w: World) -> int:
    toy = add_toy(w.kernel)
    toy.fails = err(ENXIO)
    return _name(w, b"toy0", toy)


def _iommufd(w: World) -> int:
    return _pass(w, w.proc.open("/dev/iommu", 2) if not w.old else w.proc.eventfd())


NEW = {"linux-6.1": -EINVAL, "linux-6.12": -EBADFD}
GROUP_ROWS: dict[str, tuple[Any, Any]] = {
    "GET_STATUS: unreadable": (lambda w: w.result(open_group(w.proc, w.emu), STATUS, 8), -EFAULT),
    "GET_STATUS: argsz": (
        lambda w: w.result(open_group(w.proc, w.emu), STATUS, v.vfio_group_status(argsz=7)), -EINVAL,
    ),
    "GET_STATUS: gone": (lambda w: _gone(w, STATUS), -ENODEV),
    "GET_STATUS: in a container": (lambda w: _status(w, w.emu, contained=True), 3),
    "GET_STATUS: in none": (lambda w: _status(w, w.card), 1),
    "SET_CONTAINER: a value": (lambda w: w.result(open_group(w.proc, w.emu), SET, w.container()), -EFAULT),
    "SET_CONTAINER: below 0": (lambda w: _pass(w, -1), -EBADF),
    "SET_CONTAINER: not open": (lambda w: _pass(w, 99), -EBADF),
    "SET_CONTAINER: it has one": (_taken, -EINVAL),
    "SET_CONTAINER: another file": (lambda w: _pass(w, w.proc.eventfd()), NEW),
    "SET_CONTAINER: a group": (lambda w: _pass(w, open_group(w.proc, w.card)), NEW),
    "SET_CONTAINER: IOMMUFD": (_iommufd, {"linux-6.1": -EINVAL, "linux-6.12": 0}),
    "SET_CONTAINER: gone": (lambda w: _gone(w, SET), -ENODEV),
    "SET_CONTAINER: unprotected, without rights": (_unprotected_by_nobody, -EPERM),
    "SET_CONTAINER: unprotected to real": (lambda w: _mixed(w, w.emu, w.bare), -EPERM),
    "SET_CONTAINER: real to unprotected": (lambda w: _mixed(w, w.bare, w.emu), -EPERM),
    "SET_CONTAINER: not viable": (_not_viable, -EPERM),
    "SET_CONTAINER: the IOMMU driver refuses": (_refused, -EBUSY),
    "SET_CONTAINER": (lambda w: _pass(w, w.container()), 0),
    "UNSET_CONTAINER: none": (lambda w: w.result(open_group(w.proc, w.emu), UNSET), -EINVAL),
    "UNSET_CONTAINER: a device is open": (lambda w: _unset(w, opened=True), -EBUSY),
    "UNSET_CONTAINER": (lambda w: _unset(w, opened=False), 0),
    "GET_DEVICE_FD: longer than a page": (lambda w: _name(w, b"x" * 4096), -EINVAL),
    "GET_DEVICE_FD: unreadable": (lambda w: _name(w, 8), -EFAULT),
    "GET_DEVICE_FD: no such device": (lambda w: _name(w, b"emu1"), -ENODEV),
    "GET_DEVICE_FD: gone": (lambda w: _gone(w, GET_FD), -ENODEV),
    "GET_DEVICE_FD: no IOMMU": (lambda w: _name(w, b"emu0", kind=0), -EINVAL),
    "GET_DEVICE_FD: no container": (
        lambda w: w.result(open_group(w.proc, w.emu), GET_FD, bytearray(b"emu0\0")), -EINVAL,
    ),
    "GET_DEVICE_FD: what the driver says": (_driver_says, -ENXIO),
    "GET_DEVICE_FD": (lambda w: _name(w, b"emu0"), 1),
    "of a container": (lambda w: w.result(open_group(w.proc, w.emu), API), -ENOTTY),
    "of a device": (lambda w: w.result(open_group(w.proc, w.emu), 0x3B6B, 8), -ENOTTY),
}  # fmt: skip


@pytest.mark.parametrize("row", GROUP_ROWS)
def test_a_group(w, row):
    """drivers/vfio/group.c:vfio_group_fops_unl_ioctl(); Linux 6.1 has it in vfio_main.c."""
    ask, wanted = GROUP_ROWS[row]
    assert ask(w) == (wanted[w.profile] if isinstance(wanted, dict) else wanted)


# ---- descriptors of devices


def _node(w: World) -> int:
    (name,) = w.proc.listdir("/sys/devices/emu0/vfio-dev")
    return w.proc.open(f"/dev/vfio/devices/{name}", 2)


def _by_group(w: World) -> int:
    w.container(w.emu, kind=3)
    return get_device_fd(w.proc, w.groups[0], "emu0")


IOCTLS = {
    "GET_INFO": 0x3B6B, "GET_REGION_INFO": 0x3B6C, "GET_IRQ_INFO": 0x3B6D, "SET_IRQS": 0x3B6E, "RESET": 0x3B6F,
    "HOT_RESET_INFO": 0x3B70, "FEATURE": 0x3B75, "ATTACH": 0x3B77, "DETACH": 0x3B78, "none": 0x3B7F,
}  # fmt: skip
CALLS: dict[str, Any] = {
    **{name: lambda w, fd, cmd=cmd: w.result(fd, cmd, 8) for name, cmd in IOCTLS.items()},
    "read": lambda w, fd: -(errno_of(w.proc.pread, fd, 4, 0) or 0),
    "write": lambda w, fd: -(errno_of(w.proc.pwrite, fd, b"1234", 0) or 0),
    "mmap": lambda w, fd: -(errno_of(w.proc.mmap, 0, 4096, 3, 1, fd, 0) or 0),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_node_that_is_not_bound(call):
    """drivers/vfio/vfio_main.c:vfio_device_fops_unl_ioctl(): EINVAL, whatever it is."""
    w = World("linux-6.12")
    assert CALLS[call](w, _node(w)) == -EINVAL
    w.end()


DRIVERLESS = {
    "read": -EINVAL, "write": -EINVAL, "mmap": -EINVAL, "RESET": -ENOTTY, "none": -ENOTTY, "ATTACH": -ENOTTY,
    "DETACH": -ENOTTY, "FEATURE": -EFAULT,
}  # fmt: skip


@pytest.mark.parametrize("call", DRIVERLESS)
def test_what_a_driver_has_not(w, call):
    """EINVAL for the file's operations; its ioctl() has the last word on numbers, those of nodes among them."""
    assert CALLS[call](w, _by_group(w)) == DRIVERLESS[call]


def test_bind_of_a_descriptor_from_a_group(w):
    """drivers/vfio/device_cdev.c:vfio_df_ioctl_bind_iommufd(); a number that Linux 6.1 does not know."""
    bind = bytearray(struct.pack("<4i", 16, 0, 0, 0))
    assert w.result(_by_group(w), 0x3B76, bind) == (-ENOTTY if w.old else -EINVAL)
