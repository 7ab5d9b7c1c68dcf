"""Any writes to configuration space: what is the kernel's stays the kernel's, and reads agree with each other."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vfiocard import MSI, MSIX, PROFILES, Box, Card

from pykernel.uapi.linux import pci_regs as r

SIZE = 4096
KEPT = (
    (r.PCI_VENDOR_ID, 4),
    (r.PCI_CLASS_REVISION, 4),
    *((off, 4) for off in range(r.PCI_BASE_ADDRESS_0, r.PCI_BASE_ADDRESS_5 + 4, 4)),
    (r.PCI_ROM_ADDRESS, 4),
    (r.PCI_CAPABILITY_LIST, 1),
    (r.PCI_INTERRUPT_LINE, 2),
    (MSI + r.PCI_MSI_ADDRESS_LO, 8),
    (MSIX + r.PCI_MSIX_FLAGS, 2),
)
INTERESTING = st.one_of(st.integers(0, 0xFF), st.integers(0x100, 0x1A0), st.integers(0, SIZE - 1))
WRITES = st.lists(st.tuples(INTERESTING, st.binary(min_size=1, max_size=9)), min_size=1, max_size=12)


@pytest.fixture(scope="module", params=PROFILES)
def open_box(request):
    """One for all examples: whatever was written before does not matter."""
    return Box(Card(), request.param)


def view(box, step):
    """The whole space, read in pieces of *step*."""
    fd, base = box.device.fd, 7 << 40
    return b"".join(box.proc.pread(fd, step, base + at) for at in range(0, SIZE, step))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=WRITES)
def test_any_writes(open_box, writes):
    box = open_box
    kept = [box.silicon.config.get(off, n) for off, n in KEPT]
    for off, data in writes:
        data = data[: SIZE - off]
        assert box.proc.pwrite(box.device.fd, data, (7 << 40) + off) == len(data)
    assert [box.silicon.config.get(off, n) for off, n in KEPT] == kept
    assert not box.kernel.oopses
    whole = view(box, SIZE)
    assert whole == view(box, 256)
    assert whole[:256] == view(box, 2)[:256]
    assert whole[:4] == b"\x34\x12\x4d\xca"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bar=st.sampled_from([(0, 0x4000), (2, 0x1000), (3, 0x100)]), value=st.integers(0, 0xFFFFFFFF))
def test_a_bar_keeps_the_bits_that_silicon_would(open_box, bar, value):
    """Address bits from its size on, and the type bits."""
    n, size = bar
    flags = 0xC if n == 0 else 0
    open_box.set_config(r.PCI_BASE_ADDRESS_0 + 4 * n, 4, value)
    assert open_box.config(r.PCI_BASE_ADDRESS_0 + 4 * n, 4) == value & ~(size - 1) & 0xFFFFFFFF | flags
