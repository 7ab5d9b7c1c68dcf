"""/dev/vfio/N: who may open it, its ioctls, its life (drivers/vfio/group.c; Linux 6.1: vfio_main.c)."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from errno import EBADF, EBADFD, EBUSY, EFAULT, EINVAL, EMFILE, ENODEV, ENOENT, ENOTTY, ENXIO, ESPIPE
from types import SimpleNamespace

import pytest
from errnos import errno_of
from vfiotoy import EXTENSION, add_mappings, add_toy, get_device_fd, open_group, put_string, set_container, usable

from pykernel.errors import err
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.main import vfio_unregister_group_dev

VIABLE, SET = v.VFIO_GROUP_FLAGS_VIABLE, v.VFIO_GROUP_FLAGS_CONTAINER_SET


@pytest.fixture
def w(vfio_kernel):
    """A toy device, the test's own IOMMU driver, a client."""
    log = []
    add_mappings(vfio_kernel, log)
    toy = add_toy(vfio_kernel, log=log)
    return SimpleNamespace(kernel=vfio_kernel, toy=toy, log=log, proc=vfio_kernel.process())


def status(w, fd, argsz=8):
    """The flags."""
    b = bytearray(struct.pack("<II", argsz, 0xFF))
    w.proc.ioctl(fd, v.VFIO_GROUP_GET_STATUS, b)
    return struct.unpack("<II", b)[1]


# ---- the node


def test_a_group_has_a_node_and_a_directory(w):
    st = w.proc.stat("/dev/vfio/0")
    assert (stat.S_IMODE(st.st_mode), stat.S_ISCHR(st.st_mode), os.minor(st.st_rdev)) == (0o600, True, 0)
    major = os.major(st.st_rdev)
    assert f"{major} vfio\n" in w.proc.read_text("/proc/devices")
    assert w.proc.readlink("/sys/class/vfio/0") == "../../devices/virtual/vfio/0"
    # recorded from Linux 6.1.0-42, of group 2 and another major
    assert sorted(w.proc.listdir("/sys/class/vfio/0")) == ["dev", "power", "subsystem", "uevent"]
    assert w.proc.read_text("/sys/class/vfio/0/uevent") == f"MAJOR={major}\nMINOR=0\nDEVNAME=vfio/0\n"


def test_an_emulated_device_gets_a_group_of_its_own(w):
    assert w.proc.readlink("/sys/devices/toy0/iommu_group") == "../../kernel/iommu_groups/0"
    assert w.proc.read_text("/sys/kernel/iommu_groups/0/name") == "vfio-noiommu\n"
    assert w.proc.listdir("/sys/kernel/iommu_groups/0/devices") == ["toy0"]


def test_each_device_is_below_what_it_is_made_of(w):
    """vfio-dev/vfioN, on both kernels; a device number only where it has a node of its own."""
    assert w.proc.readlink("/sys/class/vfio-dev/vfio0") == "../../devices/toy0/vfio-dev/vfio0"
    files = w.proc.listdir("/sys/devices/toy0/vfio-dev/vfio0")
    assert ("dev" in files) == ("devices" in w.proc.listdir("/dev/vfio")) == (w.kernel.profile.name != "linux-6.1")


def test_one_opener(w):
    fd = open_group(w.proc, w.toy)
    assert errno_of(open_group, w.kernel.process(), w.toy) == EBUSY
    twin = w.proc.dup(fd)
    w.proc.close(fd)
    assert errno_of(open_group, w.proc, w.toy) == EBUSY
    w.proc.close(twin)
    assert errno_of(open_group, w.proc, w.toy) == 0


def test_a_group_file_has_its_ioctls_only(w):
    fd = open_group(w.proc, w.toy)
    for cmd in (v.VFIO_GET_API_VERSION, v.VFIO_DEVICE_GET_INFO, v.VFIO_IOMMU_MAP_DMA):
        assert errno_of(w.proc.ioctl, fd, cmd, 0) == ENOTTY
    assert errno_of(w.proc.lseek, fd, 0, 0) == ESPIPE
    assert errno_of(w.proc.read, fd, 1) == EINVAL
    assert errno_of(w.proc.write, fd, b"x") == EINVAL


# ---- VFIO_GROUP_GET_STATUS


def test_status(w):
    c, g = w.proc.open("/dev/vfio/vfio", 2), open_group(w.proc, w.toy)
    assert status(w, g) == VIABLE
    set_container(w.proc, g, c)
    assert status(w, g, argsz=100) == VIABLE | SET
    assert errno_of(status, w, g, 7) == EINVAL
    assert errno_of(w.proc.ioctl, g, v.VFIO_GROUP_GET_STATUS, 8) == EFAULT


# ---- VFIO_GROUP_SET_CONTAINER, VFIO_GROUP_UNSET_CONTAINER


@pytest.mark.parametrize(("fd", "why"), [(-1, EBADF), (999, EBADF), ("closed", EBADF), ("path", EBADF)])
def test_no_open_file_is_no_container(w, fd, why):
    g = open_group(w.proc, w.toy)
    if fd == "closed":
        fd = w.proc.open("/dev/vfio/vfio", 2)
        w.proc.close(fd)
    elif fd == "path":
        fd = w.proc.open("/dev/vfio/vfio", os.O_PATH)
    assert errno_of(set_container, w.proc, g, fd) == why


def test_another_file_is_no_container(w):
    """EINVAL, and EBADFD since IOMMUFD might be meant (6.2)."""
    g = open_group(w.proc, w.toy)
    wanted = EINVAL if w.kernel.profile.name == "linux-6.1" else EBADFD
    for fd in (g, w.proc.eventfd(), w.proc.open("/dev/null", 2)):
        assert errno_of(set_container, w.proc, g, fd) == wanted


def test_the_argument_is_a_pointer(w):
    g = open_group(w.proc, w.toy)
    assert errno_of(w.proc.ioctl, g, v.VFIO_GROUP_SET_CONTAINER, 8) == EFAULT


def test_a_group_is_in_one_container(w):
    c, g = w.proc.open("/dev/vfio/vfio", 2), open_group(w.proc, w.toy)
    assert errno_of(w.proc.ioctl, g, v.VFIO_GROUP_UNSET_CONTAINER) == EINVAL
    set_container(w.proc, g, c)
    assert errno_of(set_container, w.proc, g, c) == EINVAL
    assert errno_of(set_container, w.proc, g, g) == EINVAL  # that it has one is looked at first
    assert errno_of(set_container, w.proc, g, 999) == EBADF  # but after the descriptor
    w.proc.ioctl(g, v.VFIO_GROUP_UNSET_CONTAINER)
    assert status(w, g) == VIABLE


def test_a_group_with_an_open_device_stays(w):
    _c, g = usable(w.proc, w.toy)
    d = get_device_fd(w.proc, g, "toy0")
    assert errno_of(w.proc.ioctl, g, v.VFIO_GROUP_UNSET_CONTAINER) == EBUSY
    w.proc.close(d)
    assert errno_of(w.proc.ioctl, g, v.VFIO_GROUP_UNSET_CONTAINER) == 0


# ---- VFIO_GROUP_GET_DEVICE_FD


NAMES = [
    ("toy0", 0),
    ("toy", ENODEV),
    ("toy00", ENODEV),
    ("toy0 ", ENODEV),
    ("toy0\n", ENODEV),
    ("TOY0", ENODEV),
    ("", ENODEV),
    ("x" * 4095, ENODEV),
    ("x" * 4096, EINVAL),
    ("x" * 9000, EINVAL),
]


@pytest.mark.parametrize(("name", "why"), NAMES, ids=lambda x: repr(x)[:12])
def test_names(w, name, why):
    _c, g = usable(w.proc, w.toy)
    assert errno_of(get_device_fd, w.proc, g, name) == why


def test_a_name_ends_where_memory_does(w):
    """strnlen_user() stops at the NUL; without one before the end of memory it is EFAULT."""
    _c, g = usable(w.proc, w.toy)
    page = w.proc.mmap(0, 4096, 3, 0x22, -1, 0)
    w.proc.mem.write(page + 4091, b"toy0\0")
    assert w.proc.ioctl(g, v.VFIO_GROUP_GET_DEVICE_FD, page + 4091) > 0
    w.proc.mem.write(page + 4091, b"toy0x")
    assert errno_of(w.proc.ioctl, g, v.VFIO_GROUP_GET_DEVICE_FD, page + 4091) == EFAULT
    assert errno_of(w.proc.ioctl, g, v.VFIO_GROUP_GET_DEVICE_FD, 0) == EFAULT


def test_a_device_needs_a_container_with_an_iommu(w):
    c, g = w.proc.open("/dev/vfio/vfio", 2), open_group(w.proc, w.toy)
    assert errno_of(get_device_fd, w.proc, g, "toy0") == EINVAL
    assert errno_of(get_device_fd, w.proc, g, "nobody") == ENODEV  # the name is looked up first
    set_container(w.proc, g, c)
    assert errno_of(get_device_fd, w.proc, g, "toy0") == EINVAL
    w.proc.ioctl(c, v.VFIO_SET_IOMMU, EXTENSION)
    assert errno_of(get_device_fd, w.proc, g, "toy0") == 0


def test_a_device_that_does_not_open(w):
    """The driver's error is the answer; nothing stays taken."""
    _c, g = usable(w.proc, w.toy)
    w.toy.fails = err(ENXIO)
    assert errno_of(get_device_fd, w.proc, g, "toy0") == ENXIO
    assert w.toy.open_count == 0
    assert errno_of(w.proc.ioctl, g, v.VFIO_GROUP_UNSET_CONTAINER) == 0


def test_without_a_free_descriptor_the_device_is_not_opened(w):
    _c, g = usable(w.proc, w.toy)
    name = put_string(w.proc, "toy0")
    w.proc.fds.limit = len(w.proc.fds.files)
    assert errno_of(w.proc.ioctl, g, v.VFIO_GROUP_GET_DEVICE_FD, name) == EMFILE
    assert ("open",) not in w.log


def test_match_decides_whose_name_it_is(w):
    """A device may take more than its name, and refuse what it takes (vfio-pci's vf_token)."""

    def match(buf):
        if buf.startswith("toy0 wrong"):
            raise err(EINVAL)
        return buf.startswith("toy0")

    w.toy.match = match
    _c, g = usable(w.proc, w.toy)
    assert errno_of(get_device_fd, w.proc, g, "toy0 wrong") == EINVAL
    assert errno_of(get_device_fd, w.proc, g, "toy0 right") == 0


def test_the_descriptor(w):
    _c, g = usable(w.proc, w.toy)
    d = get_device_fd(w.proc, g, "toy0")
    assert w.proc.fcntl(d, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    assert w.proc.fcntl(d, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    assert w.proc.fds.get(d).inode.describe() == "anon_inode:[vfio-device]"


# ---- its life


def test_a_device_keeps_its_group_open(w):
    _c, g = usable(w.proc, w.toy)
    d = get_device_fd(w.proc, g, "toy0")
    w.proc.close(g)
    assert errno_of(open_group, w.proc, w.toy) == EBUSY
    w.proc.close(d)
    assert errno_of(open_group, w.proc, w.toy) == 0


def test_a_group_whose_device_is_gone(w):
    """Its file stays; every ioctl says that there is nothing any more."""
    g, c = open_group(w.proc, w.toy), w.proc.open("/dev/vfio/vfio", 2)
    vfio_unregister_group_dev(w.toy)
    assert errno_of(status, w, g) == ENODEV
    assert errno_of(set_container, w.proc, g, c) == ENODEV
    assert errno_of(get_device_fd, w.proc, g, "toy0") == ENODEV
    assert errno_of(w.proc.ioctl, g, v.VFIO_GROUP_UNSET_CONTAINER) == EINVAL
    assert errno_of(w.proc.open, "/dev/vfio/0", 2) == ENOENT
    assert w.proc.listdir("/sys/class/vfio") == []
    w.proc.close(g)


def test_a_group_that_goes_leaves_its_container(w):
    c, _g = usable(w.proc, w.toy)
    vfio_unregister_group_dev(w.toy)
    assert w.log[-1] == ("iommu release",)
    assert errno_of(w.proc.ioctl, c, v.VFIO_SET_IOMMU, EXTENSION) == EINVAL


def test_the_number_of_a_group_comes_back_when_its_file_is_closed(w):
    """The minor is the group's until the last reference goes; the IOMMU group's number is free at once."""
    g = open_group(w.proc, w.toy)
    vfio_unregister_group_dev(w.toy)
    other = add_toy(w.kernel, "toy1")
    assert (other.the_group.name, os.minor(w.proc.stat("/dev/vfio/0").st_rdev)) == ("0", 1)
    w.proc.close(g)
    add_toy(w.kernel, "toy2")
    assert os.minor(w.proc.stat("/dev/vfio/1").st_rdev) == 0


def test_leaks_name_what_is_open(w):
    _c, g = usable(w.proc, w.toy)
    d = get_device_fd(w.proc, g, "toy0")
    found = [line for line in w.kernel.leaks() if line.startswith("descriptor")]
    assert [line.partition(": ")[2] for line in found] == [
        "/dev/vfio/vfio",
        "/dev/vfio/0",
        "anon_inode:[vfio-device] of toy0",
    ]
    assert d == 2


# ---- /dev/iommu as the container (from Linux 6.2 on)


@pytest.mark.parametrize("option", [(), ("IOMMUFD_VFIO_CONTAINER",)], ids=["iommu", "vfio"])
def test_iommufd_as_the_container(boot_vfio, option):
    """SET_CONTAINER takes it, GET_DEVICE_FD binds and attaches the device to its compatible IOAS."""
    kernel = boot_vfio("linux-6.12", config=option)
    toy = add_toy(kernel)
    proc = kernel.process()
    c, g = proc.open("/dev/vfio/vfio" if option else "/dev/iommu", 2), open_group(proc, toy)
    set_container(proc, g, c)
    assert status(SimpleNamespace(proc=proc), g) == VIABLE | SET
    assert errno_of(set_container, proc, g, c) == EINVAL
    d = get_device_fd(proc, g, "toy0")
    assert proc.pread(d, 2, 1) == b"\1\2"
    assert (toy.iommufd_access is not None, toy.iommufd_attached) == (True, True)
    proc.close(d)
    assert (toy.log, toy.iommufd_access, toy.iommufd_attached) == ([("open",), ("close",)], None, False)
    # group.c:vfio_group_ioctl_unset_container(): no container_users here, so an open device is in nobody's way
    proc.ioctl(g, v.VFIO_GROUP_UNSET_CONTAINER)
    assert errno_of(proc.ioctl, g, v.VFIO_GROUP_UNSET_CONTAINER) == EINVAL
    assert errno_of(get_device_fd, proc, g, "toy0") == EINVAL


def test_who_has_dev_vfio_vfio(boot_vfio):
    """IOMMUFD_VFIO_CONTAINER: there is no container of VFIO's own."""
    kernel = boot_vfio("linux-6.12", config=("IOMMUFD_VFIO_CONTAINER",))
    proc = kernel.process()
    proc.open("/dev/vfio/vfio", 2)
    assert "IOMMUFD is providing /dev/vfio/vfio, not VFIO." in kernel.log.human()
