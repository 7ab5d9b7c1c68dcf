"""/proc/bus/pci: the table and the configuration spaces, as drivers/pci/proc.c makes them."""

from __future__ import annotations

import errno
import os

import pytest

from pykernel.hw import make
from pykernel.task import Cred

DIR = "/proc/bus/pci"
EDU = f"{DIR}/6a/01.0"


def test_a_row_has_the_address_the_ids_the_interrupt_and_seven_regions(pci_kernel):
    """show_device(): "%02x%02x\\t%04x%04x\\t%x", then "\\t%16llx" for each start and each size, the driver's name."""
    kernel = pci_kernel(make("edu", {}))
    p = kernel.process()
    row = p.read_text(f"{DIR}/devices")
    sysfs = "/sys/bus/pci/devices/0000:6a:01.0"
    regions = [[int(x, 16) for x in line.split()] for line in p.read_text(f"{sysfs}/resource").splitlines()[:7]]
    starts = [start | flags & 0xF for start, _, flags in regions]
    sizes = [end - start + 1 if start < end else 0 for start, end, _ in regions]
    irq = int(p.read_text(f"{sysfs}/irq"))
    assert row == f"6a08\t123411e8\t{irq:x}" + "".join(f"\t{x:16x}" for x in starts + sizes) + "\t\n"


def test_the_space_is_that_of_sysfs(pci_kernel):
    p = pci_kernel(make("edu", {})).process()
    assert sorted(p.listdir(DIR)) == ["6a", "devices"]
    assert p.listdir(f"{DIR}/6a") == ["01.0"]
    stat = p.stat(EDU)
    assert (oct(stat.st_mode), stat.st_size) == ("0o100644", 256)
    fd = p.open(EDU, os.O_RDWR)
    whole = p.read(fd, 9999)
    assert whole == p.read(p.open("/sys/bus/pci/devices/0000:6a:01.0/config", os.O_RDONLY), 9999)
    assert len(whole) == 256
    assert p.read(fd, 1) == b""
    assert p.pwrite(fd, b"\x10", 0x0C) == 1
    assert p.pread(fd, 2, 0x0C) == b"\x10\x00"
    assert p.pwrite(fd, b"x", 256) == 0


def test_64_bytes_are_for_all_the_rest_for_cap_sys_admin(pci_kernel):
    """proc_bus_pci_read(): who opened it counts."""
    kernel = pci_kernel(make("edu", {}))
    p = kernel.process(cred=Cred(1000, 1000))
    fd = p.open(EDU, os.O_RDONLY)
    assert len(p.read(fd, 9999)) == 64
    with pytest.raises(OSError, match="Permission denied"):
        p.open(EDU, os.O_WRONLY)


def test_seeks_end_at_the_end(pci_kernel):
    """fixed_size_llseek()."""
    p = pci_kernel(make("edu", {})).process()
    fd = p.open(EDU, os.O_RDONLY)
    assert p.lseek(fd, 0, os.SEEK_END) == 256
    for offset, whence in ((257, os.SEEK_SET), (1, os.SEEK_END), (0, os.SEEK_DATA)):
        with pytest.raises(OSError, match="Invalid argument"):
            p.lseek(fd, offset, whence)


def test_ioctls(pci_kernel):
    """PCIIOC_CONTROLLER is the domain, include/uapi/linux/pci.h; what it does not know is EINVAL, not ENOTTY."""
    p = pci_kernel(make("edu", {})).process()
    fd = p.open(EDU, os.O_RDONLY)
    assert p.ioctl(fd, ord("P") << 24 | ord("C") << 16) == 0
    with pytest.raises(OSError, match="Invalid argument") as e:
        p.ioctl(fd, 1)
    assert e.value.errno == errno.EINVAL


def test_a_device_that_is_removed_goes_and_comes_back_with_a_scan(pci_kernel):
    """pci_proc_detach_device() leaves the bus."""
    p = pci_kernel(make("edu", {})).process()
    p.write_text("/sys/bus/pci/devices/0000:6a:01.0/remove", "1\n")
    assert (p.listdir(f"{DIR}/6a"), p.read_text(f"{DIR}/devices")) == ([], "")
    p.write_text("/sys/bus/pci/rescan", "1\n")
    assert p.listdir(f"{DIR}/6a") == ["01.0"]
