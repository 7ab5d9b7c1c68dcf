"""A guest reaches a shared queue's portal only while its processors translate PASIDs: KVM's VFIO device says so."""

from __future__ import annotations

import pytest
from tenants import PAGE, Tenants, memmove

from pykernel.uapi.linux import kvm as k
from pykernel.virt.kvm.ept import EptViolation


def device_attr(vmm, attr):
    """KVM_SET_DEVICE_ATTR of KVM's VFIO device."""
    at = vmm.proc.mem.alloc(4)
    vmm.proc.mem.write(at, next(iter(vmm.container.groups.values())).to_bytes(4, "little"))
    row = k.kvm_device_attr(group=k.KVM_DEV_VFIO_GROUP, attr=attr, addr=at)
    vmm.proc.ioctl(vmm.vm._vfio, k.KVM_SET_DEVICE_ATTR, row)


def portal_gpa(vmm):
    return next(iter(vmm.devices.values())).bars[2][0] + PAGE


@pytest.mark.parametrize("mdev", ["1swq", "1dwq"])
def test_the_portal_leaves_the_guest_when_nobody_vouches_for_it(mdev):
    """KVM_DEV_VFIO_GROUP_DEL takes the page out of the EPT at once, ADD lets it in again; a dedicated queue stays."""
    made = Tenants(vms=0, here=1, dedicated=1)
    vmm = made.machine("vm0", 1, mdev=mdev)
    tenant = next(t for t, home in made.home.items() if home)
    assert made.do(tenant, lambda: tenant.copy(b"before")) == b"before"
    mmu, gpa = vmm.vm._vm.mmu, portal_gpa(vmm)
    assert mmu.translate(gpa, write=True)

    device_attr(vmm, k.KVM_DEV_VFIO_GROUP_DEL)
    if mdev == "1swq":
        with pytest.raises(EptViolation):
            mmu.translate(gpa, write=True)
        assert vmm.vm._vm.guest_enqueue(gpa, memmove(0, 0, 1, 0, first=1)) is None
    else:
        assert mmu.translate(gpa, write=True)

    device_attr(vmm, k.KVM_DEV_VFIO_GROUP_ADD)
    assert made.do(tenant, lambda: tenant.copy(b"after")) == b"after"
    made.end()


def test_a_portal_without_the_gate_would_be_reached(monkeypatch):
    """The mutant: what the test above looks for happens when the portal does not ask."""
    from pykernel.drivers.vdsa.portal import Portal

    monkeypatch.setattr(Portal, "translated", True)
    made = Tenants(vms=1, each=1, here=0)
    vmm = made.vms[0]
    device_attr(vmm, k.KVM_DEV_VFIO_GROUP_DEL)
    assert vmm.vm._vm.mmu.translate(portal_gpa(vmm), write=True)
    made.end()
