"""What must not wedge or crash the machine: descriptors over the end of memory, halts in commands, devices that go."""

from __future__ import annotations

import mmap
import os
import struct

import pytest

import pykernel
from pykernel.machine import parse
from pykernel.tools.dsa import Portal, enable_wq
from pykernel.uapi.linux.idxd import (
    DSA_COMP_PAGE_FAULT_NOBOF,
    DSA_COMP_SUCCESS,
    DSA_OPCODE_MEMMOVE,
    DSA_OPCODE_NOOP,
)

BUS = "/sys/bus/dsa"
HALTING = """
[[pci]]
model = "dsa"
faults = [{{kind = "halt_on_command", command = {}, reset_type = {}}}]

[modules]
idxd = ""
"""
FLAGS = 0xC  # completion record valid and wanted


def memmove(src: int, dst: int, size: int, record: int) -> bytes:
    return struct.pack("<IIQQQI28s", 0, FLAGS | DSA_OPCODE_MEMMOVE << 24, record, src, dst, size, bytes(28))


@pytest.mark.parametrize("distance", [-64, 64])
def test_a_copy_over_the_end_of_the_address_space_is_a_page_fault(distance: int) -> None:
    """64-bit addresses wrap; the record says page fault with a 64-bit address, and the queue works on."""
    kernel = pykernel.boot("dsa")
    p = kernel.process()
    enable_wq(p, "wq0.0")
    with Portal(p, "/dev/dsa/wq0.0") as portal:
        record = portal.place(32)
        p.mem.write(record, bytes(32))
        p.movdir64b(portal.addr, memmove(2**64 - 128, 2**64 - 128 + distance, 256, record))
        assert p.mem.read(record, 1)[0] & 0x7F == DSA_COMP_PAGE_FAULT_NOBOF
        assert portal.submit(opcode=DSA_OPCODE_NOOP).status == DSA_COMP_SUCCESS
    p.exit()
    kernel.shutdown()
    assert kernel.oopses == []


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12", "linux-7.2"])
@pytest.mark.parametrize("reset_type", [0, 1, 2])
@pytest.mark.parametrize("command", [1, 2, 8])
def test_a_halt_in_a_command_ends_the_command(profile: str, command: int, reset_type: int) -> None:
    """Silicon that halts in enable-device, disable-device or drain leaves no driver waiting for ever."""
    kernel = pykernel.boot(parse(HALTING.format(command, reset_type)), profile)
    p = kernel.process()
    for step in (
        lambda: enable_wq(p, "wq0.0"),
        lambda: p.write_text(f"{BUS}/drivers/user/unbind", "wq0.0"),
        lambda: p.write_text(f"{BUS}/drivers/idxd/unbind", "dsa0"),
    ):
        try:
            step()
        except OSError:
            break
    p.exit()
    kernel.shutdown()
    assert kernel.oopses == []


def test_an_open_queue_holds_the_module() -> None:
    """file_operations.owner: refcnt is 1 while a descriptor or a mapping of it lives, and rmmod says EWOULDBLOCK."""
    kernel = pykernel.boot("dsa")
    p = kernel.process()
    enable_wq(p, "wq0.0")
    fd = p.open("/dev/dsa/wq0.0", os.O_RDWR)
    addr = p.mmap(0, 4096, mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    p.close(fd)
    assert p.read_text("/sys/module/idxd/refcnt") == "1\n"
    with pytest.raises(BlockingIOError):
        kernel.modules.rmmod("idxd")
    p.munmap(addr, 4096)
    assert p.read_text("/sys/module/idxd/refcnt") == "0\n"
    kernel.modules.rmmod("idxd")
    p.exit()
    kernel.shutdown()


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12", "linux-7.2"])
@pytest.mark.parametrize("mode", ["dedicated", "shared"])
@pytest.mark.parametrize("gone", ["remove", "unbind"])
def test_a_client_outlives_the_device(profile: str, mode: str, gone: str) -> None:
    """The device is removed, or its driver unbound, under an open and mapped queue: the client can let go of both."""
    kernel = pykernel.boot("dsa", profile)
    p = kernel.process()
    enable_wq(p, "wq0.0", mode=mode)
    fd = p.open("/dev/dsa/wq0.0", os.O_RDWR)
    addr = p.mmap(0, 4096, mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    if gone == "remove":
        p.write_text("/sys/bus/pci/devices/0000:6a:01.0/remove", "1")
    else:
        p.write_text("/sys/bus/pci/drivers/idxd/unbind", "0000:6a:01.0")
    p.munmap(addr, 4096)
    p.close(fd)
    p.exit()
    kernel.shutdown()
    assert kernel.oopses == []
