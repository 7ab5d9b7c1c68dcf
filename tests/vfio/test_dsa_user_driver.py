"""A program drives the accelerator through vfio-pci, without idxd: registers, portal, IOVAs, an interrupt."""

from __future__ import annotations

import pytest
import vfioclient as client
from dsa_user_driver import Dsa

import pykernel
from pykernel.machine import parse
from pykernel.uapi.linux import vfio as v
from pykernel.uapi.linux.idxd import DSA_COMP_SUCCESS, DSA_OPCODE_MEMMOVE

BDF = "0000:6a:01.0"
MACHINE = f"""
[[pci]]
model = "dsa"
address = "{BDF}"
[modules]
vfio_pci = "disable_denylist=1"
"""
IOVA = 0x40000000
RECORD, SRC, DST = 0, 0x1000, 0x101000
SIZE = 0x200000


WAYS = (("linux-6.1", client.Container), ("linux-6.12", client.Container), ("linux-6.12", client.Iommufd))


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}-{way[1].__name__}")
def space(request):
    """Both ways to a device, as far as the kernel has them."""
    profile, way = request.param
    kernel = pykernel.boot(parse(MACHINE), profile)
    proc = kernel.process(comm="dsa")
    client.detach(proc, BDF)
    yield way(proc)
    proc.exit()
    kernel.shutdown()


def test_a_program_copies_memory_with_it_and_is_told_by_an_eventfd(space):
    """BAR0 commands, WQCFG, the portal, MEMMOVE by IOVA, MSI-X to an eventfd."""
    proc = space.proc
    device = space.device(client.sysfs(BDF))
    memory = client.anonymous(proc, SIZE)
    space.map(memory, IOVA, SIZE)
    dsa = Dsa(proc, device)
    assert dsa.gencap
    dsa.start()
    event = proc.eventfd()
    device.signal_by(v.VFIO_PCI_MSIX_IRQ_INDEX, [-1, event])
    text = bytes(range(256)) * 4096
    proc.mem.write(memory + SRC, text[: SIZE // 2 - 0x1000])

    dsa.submit(
        opcode=DSA_OPCODE_MEMMOVE,
        completion=IOVA + RECORD,
        vector=1,
        src_addr=IOVA + SRC,
        dst_addr=IOVA + DST,
        xfer_size=0xFF000,
    )

    assert proc.poll([(event, 1)], 1000) == [(event, 1)]
    assert int.from_bytes(proc.read(event, 8), "little") == 1
    assert proc.mem.read(memory + RECORD, 1)[0] == DSA_COMP_SUCCESS
    assert proc.mem.read(memory + DST, 0xFF000) == text[:0xFF000]
    dsa.stop()


@pytest.mark.parametrize(("src", "dst"), [(0x10000000, IOVA + DST), (IOVA + SRC, 0x10000000)], ids=["read", "write"])
def test_an_iova_that_is_not_mapped_is_a_page_fault_and_no_line_of_dmesg(space, src, dst):
    """
    vfio_pci_driver_test's memcpy_from_unmapped_iova and memcpy_to_unmapped_iova.

    The device asks for translations (ATS, which the driver of VT-d enables): that there is none is an answer, and no
    fault that the unit records (VT-d 7.1.2).
    """
    proc = space.proc
    device = space.device(client.sysfs(BDF))
    memory = client.anonymous(proc, SIZE)
    space.map(memory, IOVA, SIZE)
    dsa = Dsa(proc, device)
    dsa.start()

    dsa.submit(opcode=DSA_OPCODE_MEMMOVE, completion=IOVA + RECORD, src_addr=src, dst_addr=dst, xfer_size=0x1000)
    proc.poll([], 10)

    assert proc.mem.read(memory + RECORD, 1)[0] & 0x7F in (0x03, 0x04)  # page fault, without and with readback
    log = "".join(record.text + "\n" for record in proc.kernel.log.since(0))
    assert "DMAR" not in log
    dsa.stop()
