"""The files of a PCI device: recorded answers of a real Linux with QEMU's edu, and what edu cannot show."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from pykernel.hw import make
from pykernel.pci.core import Pci
from pykernel.task import Cred

HERE = "/sys/bus/pci/devices/0000:6a:01.0"
DATA = Path(__file__).parents[1] / "conformance/data"


def errno_of(fn, *args):
    with pytest.raises(OSError, match="Errno") as e:
        fn(*args)
    return e.value.errno


@pytest.fixture(params=["6.1", "6.12"])
def recorded(request):
    return (DATA / f"driver-core-linux-{request.param}.txt").read_text("utf-8"), request.param


def test_store_answers_as_recorded(pci_kernel, recorded):
    """Section "attributes": each write's count or errno, and what the file shows where that was recorded."""
    text, version = recorded
    kernel = pci_kernel(make("edu", {}), profile=f"linux-{version}")
    p = kernel.process()
    section = text.partition("# attributes")[2].partition("# config space")[0]
    files = "enable|msi_bus|numa_node|broken_parity_status|d3cold_allowed"
    cases = re.findall(rf"^\d+ ({files}) <- ('.*?')(?: \(\d+\))?: (.*)$", section, re.MULTILINE)
    assert len(cases) > 80
    for file, data, answer in cases:
        fd = p.open(f"{HERE}/{file}", 1)
        try:
            count = p.write(fd, eval(data).encode("latin-1"))
        except OSError as e:
            got = repr(errno.errorcode[e.errno or 0])
        else:
            got = f"({count}, {p.read_text(f'{HERE}/{file}')!r})" if answer.startswith("(") else repr(count)
        p.close(fd)
        assert got == answer, (file, data)


def test_inventory_as_recorded(pci_kernel, recorded):
    """Mode, size and text of the files of section "inventory"."""
    text, version = recorded
    p = pci_kernel(make("edu", {}), profile=f"linux-{version}").process()
    rows = re.findall(
        r"^\d+ device/(\w+): \('(-[rwx-]+)', (\d+)(?:, (.*))?\)$", text.partition("# attributes")[0], re.M
    )
    assert len(rows) > 20
    for name, mode, size, shown in rows:
        st = p.stat(f"{HERE}/{name}")
        bits = "".join(c if st.st_mode >> 8 - i & 1 else "-" for i, c in enumerate("rwxrwxrwx"))
        assert ("-" + bits, st.st_size) == (mode, int(size)), name
        if name not in ("resource", "local_cpus", "local_cpulist", "uevent") and shown and shown[:2] != "'E":
            assert p.read_text(f"{HERE}/{name}") == eval(shown), name


def test_link_files_come_with_a_link(pci_kernel, card_type, kernel, dev):
    p = kernel.process()
    links = ["current_link_speed", "current_link_width", "max_link_speed", "max_link_width"]
    assert [p.read_text(f"{HERE}/{n}") for n in links] == ["Unknown\n", "0\n", "Unknown\n", "0\n"]
    dev.function.config.put(0x40 + 0xC, 4, 0x85)
    dev.function.config.put(0x40 + 0x12, 2, 0x43)
    assert [p.read_text(f"{HERE}/{n}") for n in links] == ["8.0 GT/s PCIe\n", "4\n", "32.0 GT/s PCIe\n", "8\n"]
    plain = pci_kernel(card_type(express=False)).process()
    assert not set(links) & set(plain.listdir(HERE))


def test_resource_files(kernel, dev):
    p = kernel.process()
    names = sorted(n for n in p.listdir(HERE) if n.startswith("resource"))
    assert names == ["resource", "resource0", "resource0_wc", "resource2"]
    lines = p.read_text(f"{HERE}/resource").splitlines()
    assert len(lines) == 13
    assert lines[0] == f"0x{dev.resource_start(0):016x} 0x{dev.resource_start(0) + 0x1FFF:016x} 0x000000000014220c"


def test_reset_file(kernel, dev):
    p = kernel.process()
    assert [errno_of(p.write_text, f"{HERE}/reset", t) for t in ("0", "2", "x")] == [errno.EINVAL] * 3
    p.write_text(f"{HERE}/reset", "1\n")
    assert dev.function.resets == 1


@pytest.mark.parametrize(
    ("text", "shown", "message"),
    [
        ("flr", "flr\n", None),
        (" flr  \n", "flr\n", None),
        ("default\n", "flr\n", None),
        ("\n", "", "All device reset methods disabled by user"),
        ("flr flr", "flr flr\n", None),
        ("nonsense", errno.EINVAL, "Invalid reset method 'nonsense'"),
        ("flr bus", errno.EINVAL, "Unsupported reset method 'bus'"),
        ("flr " * 7, errno.EINVAL, "Too many reset methods"),
    ],
)
def test_reset_method(kernel, dev, text, shown, message):
    """drivers/pci/pci.c:reset_method_store()."""
    p = kernel.process()
    if isinstance(shown, int):
        assert errno_of(p.write_text, f"{HERE}/reset_method", text) == shown
        assert p.read_text(f"{HERE}/reset_method") == "flr\n"
    else:
        p.write_text(f"{HERE}/reset_method", text)
        assert p.read_text(f"{HERE}/reset_method") == shown
    if message:
        assert kernel.log.records[-1].text == f"pci 0000:6a:01.0: {message}"


def test_reset_files_are_there_with_a_method(pci_kernel):
    p = pci_kernel(make("edu", {})).process()
    assert not {"reset", "reset_method"} & set(p.listdir(HERE))


def test_files_for_administrators(kernel, dev):
    """enable, msi_bus and numa_node ask for CAP_SYS_ADMIN at the write, not at the open."""
    p = kernel.process(cred=Cred(uid=0, caps=1 << 1))
    for name in ("enable", "msi_bus", "numa_node"):
        assert errno_of(p.write_text, f"{HERE}/{name}", "1") == errno.EPERM


def test_a_bound_device_is_not_enabled_by_hand(kernel, dev, driver):
    assert errno_of(kernel.process().write_text, f"{HERE}/enable", "1") == errno.EBUSY


def test_config_reads_in_any_pieces(kernel, dev):
    p = kernel.process()
    fd = p.open(f"{HERE}/config", 2)
    whole = p.pread(fd, 4096, 0)
    assert len(whole) == 4096
    assert b"".join(p.pread(fd, 3, n) for n in range(0, 4096, 3)) == whole
    assert whole[:4] == b"\x34\x12\x78\x56"
    events = kernel.trace.record()
    assert p.pwrite(fd, b"\x11\x22\x33\x44\x55\x66\x77", 0x39) == 7
    assert [e.fields["data"] for e in events if e.name == "config_write"] == ["11223344556677"]
    assert p.pread(fd, 1, 0x3C) == b"\x44", "the interrupt line took its byte"
    assert errno_of(p.pwrite, fd, b"x", 4096) == errno.EFBIG


def test_config_is_64_bytes_without_cap_sys_admin(kernel, dev):
    p = kernel.process(uid=1000)
    fd = p.open(f"{HERE}/config")
    assert len(p.pread(fd, 4096, 0)) == 64
    assert p.pread(fd, 4, 64) == b""


def test_mapping_a_bar(kernel, dev):
    dev.enable_device()
    p = kernel.process()
    fd = p.open(f"{HERE}/resource0", 2)
    addr = p.mmap(0, 0x2000, 3, 1, fd, 0)
    assert p.mem.read(addr + 0x14, 4) == (0x14).to_bytes(4, "little")
    assert errno_of(p.mmap, 0, 0x3000, 3, 1, fd, 0) == errno.EINVAL
    assert errno_of(p.mmap, 0, 0x1000, 3, 1, fd, 0x2000) == errno.EINVAL


def test_cpus_of_a_bus_and_a_device(kernel, dev):
    p = kernel.process()
    bus = "/sys/class/pci_bus/0000:6a"
    assert [p.read_text(f"{bus}/{n}") for n in ("cpuaffinity", "cpulistaffinity")] == ["3\n", "0-1\n"]
    assert [p.read_text(f"{HERE}/{n}") for n in ("local_cpus", "local_cpulist")] == ["3\n", "0-1\n"]


def test_rescan_files(kernel, dev, card_type):
    p = kernel.process()
    pci = kernel.sub(Pci)
    for n, path in enumerate((f"{HERE}/rescan", "/sys/class/pci_bus/0000:6a/rescan", "/sys/bus/pci/rescan"), 2):
        address = f"0000:6a:{n:02x}.0"
        pci.plug(address, card_type())
        p.write_text(path, "0")
        assert errno_of(p.write_text, path, "x") == errno.EINVAL
        assert address not in pci.devices
        p.write_text(path, "1")
        assert address in pci.devices


def test_remove_file_refuses_junk_and_ignores_0(kernel, dev):
    p = kernel.process()
    p.write_text(f"{HERE}/remove", "0")
    assert errno_of(p.write_text, f"{HERE}/remove", "x") == errno.EINVAL
    assert p.listdir("/sys/bus/pci/devices") == ["0000:6a:01.0"]


@pytest.mark.parametrize(
    ("text", "shown"), [("a", "a"), ("a\nb", "a"), ("\n", "(null)"), (" d ", " d "), ("\nz", "(null)")]
)
def test_driver_override(kernel, dev, text, shown):
    """Recorded: section "driver_override"."""
    p = kernel.process()
    p.write_text(f"{HERE}/driver_override", text)
    assert p.read_text(f"{HERE}/driver_override") == f"{shown}\n"


def test_driver_override_of_a_page_is_einval(kernel, dev):
    p = kernel.process()
    p.write_text(f"{HERE}/driver_override", "p" * 4094)
    assert errno_of(p.write_text, f"{HERE}/driver_override", "p" * 4095) == errno.EINVAL
