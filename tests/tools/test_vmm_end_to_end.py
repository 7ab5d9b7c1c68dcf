"""
A command's whole way, from a process of a guest to the accelerator and back, event by event.

The order is that of Intel's talk and of the driver series: the guest's PASID is 1, the host's 2, and nothing outside of
the guest ever sees the 1 but the processor's translation.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from guestwork import Client, kernel_copy

from pykernel import boot
from pykernel.tools.vmm.setup import enable, prepare
from pykernel.tools.vmm.vmm import Vmm

DATA = bytes(range(256)) * 16

# name of an event -> which of its fields the test looks at
SHOWN = {
    "viommu_alloc_pasid": ("guest", "host"),
    "viommu_bind": ("guest", "host"),
    "viommu_unbind": ("guest", "host"),
    "viommu_free_pasid": ("guest", "host"),
    "ioasid_notify": ("event", "id", "spid"),
    "kvm_pasid": ("pasid", "host", "bound"),
    "kvm_enqcmd": ("pasid", "host"),
    "vdsa_pasid": ("action", "gpasid", "hpasid"),
    "sva_bind": ("pasid",),
    "sva_unbind": ("pasid",),
    "enqcmd_fixup": ("pasid",),
    "enqcmd": ("pasid",),
    "movdir64b": (),
    "dsa_enqueue": ("pasid", "accepted"),
    "enqcmds": ("completion",),
    "vtd_root": ("source",),
    "vtd_context": ("source",),
    "vtd_pasid_directory": ("pasid", "index"),
    "vtd_pasid_entry": ("pasid", "index"),
    "vtd_translated": ("write",),
    "vtd_fault": ("pasid", "reason"),
    "vtd_invalidate": ("kind", "pasid"),
    "dsa_complete": ("pasid", "opcode", "status"),
    "dsa_page_request": ("pasid",),
    "vtd_page_request": ("pasid",),
}
NONE = 0xFFFFFFFF


class Machine:
    """A host, a virtual machine on it, and what happens in both from :meth:`listen` on."""

    def __init__(self, profile="linux-6.1", **kw):
        self.host = boot("vmm", profile, seed=1)
        self.root = self.host.process()
        prepare(self.root, shared=16, dedicated=1)
        self.vmm = Vmm(self.host, name="vm0", memory=32 << 20, **kw)
        self.lines = []

    def listen(self):
        for where, kernel in (("host ", self.host), ("guest", self.vmm.guest.kernel)):
            kernel.trace.listeners.append(partial(self._hear, where))

    def _hear(self, where: str, event: Any) -> None:
        shown = SHOWN.get(event.name)
        if shown is not None:
            text = " ".join(f"{name}={event.fields[name]}" for name in shown if event.fields[name] != NONE)
            self.lines.append(f"{where} {event.name} {text}".rstrip())

    def said(self):
        lines, self.lines[:] = list(self.lines), []
        return "\n".join(lines)

    def close(self):
        self.vmm.shutdown()
        self.root.exit()
        self.host.shutdown()
        assert self.host.oopses == self.vmm.guest.kernel.oopses == []


@pytest.fixture
def machine(request):
    made = Machine(**getattr(request, "param", {}))
    yield made
    made.close()


OPEN = """
host  ioasid_notify event=ALLOC id=2
host  viommu_alloc_pasid guest=1 host=2
guest ioasid_notify event=ALLOC id=1
host  viommu_bind guest=1 host=2
host  ioasid_notify event=BIND id=2 spid=1
host  kvm_pasid pasid=1 host=2 bound=True
host  vtd_invalidate kind=PASID_IOTLB pasid=2
host  vtd_invalidate kind=PASID_DEVICE_TLB pasid=2
guest sva_bind pasid=1
"""
FIRST = """
guest enqcmd_fixup pasid=1
guest enqcmd pasid=1
host  kvm_enqcmd pasid=1 host=2
host  dsa_enqueue pasid=2 accepted=True
host  enqcmds completion=SC
host  vtd_root source=27144
host  vtd_context source=27144
host  vtd_pasid_directory pasid=2 index=0
host  vtd_pasid_entry pasid=2 index=2
host  vtd_translated write=False
host  vtd_translated write=True
host  vtd_translated write=True
host  dsa_complete pasid=2 opcode=3 status=1
"""
SECOND = """
guest enqcmd pasid=1
host  kvm_enqcmd pasid=1 host=2
host  dsa_enqueue pasid=2 accepted=True
host  enqcmds completion=SC
host  vtd_translated write=False
host  vtd_translated write=True
host  dsa_complete pasid=2 opcode=3 status=1
"""
CLOSE = """
host  vtd_invalidate kind=PASID_IOTLB pasid=2
host  vtd_invalidate kind=PASID_DEVICE_TLB pasid=2
host  viommu_unbind guest=1 host=2
host  ioasid_notify event=UNBIND id=2 spid=1
host  kvm_pasid pasid=1 host=2 bound=False
host  vdsa_pasid action=clear gpasid=1 hpasid=2
host  vtd_invalidate kind=PASID pasid=2
host  vtd_invalidate kind=IOTLB pasid=0
host  vtd_invalidate kind=PASID_DEVICE_TLB pasid=2
host  vtd_invalidate kind=PASID_IOTLB pasid=2
host  vtd_invalidate kind=PASID_DEVICE_TLB pasid=2
guest sva_unbind pasid=1
host  viommu_free_pasid guest=1 host=2
"""


def test_a_shared_queue_the_processor_translates(machine):
    """Open: VCMD, nested binding, KVM's table. First command: #GP, the guest's fix-up, translation, completion."""
    vmm, made = machine.vmm, {}
    vmm.run(lambda: enable(vmm.process()))
    machine.listen()

    def opens():
        made["client"] = Client(vmm.process(comm="app"))

    vmm.run(opens)
    assert machine.said() == OPEN.strip()
    assert vmm.run(lambda: made["client"].copy(DATA)) == DATA
    assert machine.said() == FIRST.strip()
    assert vmm.run(lambda: made["client"].copy(DATA)) == DATA
    assert machine.said() == SECOND.strip()
    vmm.run(lambda: (made["client"].close(), made["client"].proc.exit()))
    assert machine.said() == CLOSE.strip()


OPEN_DEDICATED = f"""
{OPEN.strip()}
host  vdsa_pasid action=program gpasid=1 hpasid=2
"""
FIRST_DEDICATED = """
guest movdir64b
host  movdir64b
host  dsa_enqueue pasid=2 accepted=True
host  vtd_root source=27144
host  vtd_context source=27144
host  vtd_pasid_directory pasid=2 index=0
host  vtd_pasid_entry pasid=2 index=2
host  vtd_translated write=False
host  vtd_translated write=True
host  vtd_translated write=True
host  dsa_complete pasid=2 opcode=3 status=1
"""
CLOSE_DEDICATED = """
host  vtd_invalidate kind=PASID_IOTLB pasid=2
host  vtd_invalidate kind=PASID_DEVICE_TLB pasid=2
host  vdsa_pasid action=default gpasid=None hpasid=1
host  viommu_unbind guest=1 host=2
host  ioasid_notify event=UNBIND id=2 spid=1
host  kvm_pasid pasid=1 host=2 bound=False
host  vtd_invalidate kind=PASID pasid=2
host  vtd_invalidate kind=IOTLB pasid=0
host  vtd_invalidate kind=PASID_DEVICE_TLB pasid=2
host  vtd_invalidate kind=PASID_IOTLB pasid=2
host  vtd_invalidate kind=PASID_DEVICE_TLB pasid=2
guest sva_unbind pasid=1
host  viommu_free_pasid guest=1 host=2
"""


@pytest.mark.parametrize("machine", [{"mdev": "1dwq"}], indirect=True)
def test_a_dedicated_queue_the_virtual_device_translates(machine):
    """The guest programs its PASID into the queue, and the host's is what the hardware gets; no ENQCMD on the way."""
    vmm, made = machine.vmm, {}
    vmm.run(lambda: enable(vmm.process()))
    machine.listen()

    def opens():
        made["client"] = Client(vmm.process(comm="app"), shared=False)

    vmm.run(opens)
    assert machine.said() == OPEN_DEDICATED.strip()
    assert vmm.run(lambda: made["client"].copy(DATA)) == DATA
    assert machine.said() == FIRST_DEDICATED.strip()
    vmm.run(lambda: (made["client"].close(), made["client"].proc.exit()))
    assert machine.said() == CLOSE_DEDICATED.strip()


def enabled_copy(vmm):
    """A copy by the guest's kernel, with the queue its own for that long: what arrived, and what the callback heard."""
    proc = vmm.process()
    enable(proc, kind="kernel")
    copied = kernel_copy(vmm, DATA)
    proc.write_text("/sys/bus/dsa/drivers/dmaengine/unbind", "wq0.0")
    proc.exit()
    return copied


@pytest.mark.parametrize(
    "machine",
    [{"mdev": "1dwq"}, {"mdev": "1dwq", "cmdline": "iommu.passthrough=1"}, {"mdev": "1swq", "profile": "linux-6.12"}],
    ids=["dedicated", "dedicated, pass-through", "shared, ENQCMDS"],
    indirect=True,
)
def test_the_guest_s_kernel_has_a_queue_too(machine):
    """Its addresses are its own IOMMU's or guest-physical ones; the interrupt of the completion is the guest's."""
    arrived, results = machine.vmm.run(lambda: enabled_copy(machine.vmm))

    assert arrived == DATA
    assert results == ["NOERROR"]
