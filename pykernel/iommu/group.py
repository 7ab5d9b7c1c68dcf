"""
IOMMU groups (drivers/iommu/iommu.c): which devices share an address space, who owns their DMA, and what sysfs shows.

A group lives as long as somebody holds a reference: each of its devices does. ``owner_cnt`` counts the drivers that use
the kernel's DMA API, or the claims of one user-space ``owner``; never both.
"""

from __future__ import annotations

from errno import EBUSY, EEXIST, EINVAL, EPERM
from typing import TYPE_CHECKING, Any

from pykernel.errors import EPROBE_DEFER, err
from pykernel.fs.sysfs import Kset
from pykernel.iommu.core import IommuCore, dev_iommu
from pykernel.iommu.domain import IOMMU_DOMAIN_BLOCKED, IOMMU_DOMAIN_DMA, IOMMU_DOMAIN_DMA_FQ, IommuDomain
from pykernel.iommu.group_sysfs import NAME, GroupDir
from pykernel.iommu.resv import ResvRegion, insert_resv_region
from pykernel.lib.locking import Mutex

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.kernel import Kernel

__all__ = ["IommuGroup"]


class IommuGroup:
    """``struct iommu_group``. Made with one reference, which :meth:`put` gives back."""

    def __init__(self, kernel: Kernel) -> None:
        core = kernel.sub(IommuCore)
        self.kernel = kernel
        self.core = core
        self.id = core.group_ids.alloc()
        self.name = ""
        self.refs = 1
        self.mutex = Mutex(kernel, f"iommu_group {self.id}")
        self.devices: list[Device] = []
        self.links: dict[Device, str] = {}
        self.default_domain: IommuDomain | None = None
        self.blocking_domain: IommuDomain | None = None
        self.domain: IommuDomain | None = None
        self.owner: Any = None
        self.owner_cnt = 0
        self.pasids: dict[int, Any] = {}
        self.kobj = GroupDir(self, str(self.id), core.dir)
        self.kobj.add()
        self.devices_kobj = Kset(kernel, "devices", self.kobj)
        self.devices_kobj.add()
        core.groups[self.id] = self

    # ---- references

    def get(self) -> IommuGroup:
        """C: ``struct iommu_group *iommu_group_ref_get(struct iommu_group *)``."""
        self.refs += 1
        return self

    def put(self) -> None:
        """C: ``void iommu_group_put(struct iommu_group *)``: the last one takes the group away."""
        self.refs -= 1
        if self.refs:
            return
        self.devices_kobj.delete()
        self.kobj.delete()
        del self.core.groups[self.id]
        self.core.group_ids.free(self.id)
        self._free_domains()

    def _free_domains(self) -> None:
        for domain in (self.default_domain, self.blocking_domain):
            if domain is not None:
                domain.free()
        self.default_domain = self.blocking_domain = self.domain = None

    def set_name(self, name: str) -> None:
        """C: ``int iommu_group_set_name(struct iommu_group *, const char *)``; "" takes the file away."""
        if self.name:
            self.kobj.remove_file("name")
        self.name = name
        if name:
            self.kobj.create_file(NAME)

    # ---- devices

    def add_device(self, dev: Device) -> None:
        """
        C: ``int iommu_group_add_device(struct iommu_group *, struct device *)``.

        Raises:
            EEXIST: the device has a group. What attaching it to the group's domain raises.
        """
        dev.create_link(self.kobj, "iommu_group")
        self.links[dev] = self._link(dev)
        self.get()
        dev.iommu_group = self
        self.devices.append(dev)
        try:
            if self.domain is not None:
                self._attach_device(self.domain, dev)
        except OSError:
            self._forget(dev)
            self.put()
            raise
        dev.info(f"Adding to iommu group {self.id}")

    def _link(self, dev: Device) -> str:
        name, i = dev.name, 0
        while True:
            try:
                self.devices_kobj.create_link(dev, name)
            except OSError as e:
                if e.errno != EEXIST:
                    raise
                name, i = f"{dev.name}.{i}", i + 1
            else:
                return name

    def _forget(self, dev: Device) -> None:
        self.devices.remove(dev)
        self.devices_kobj.remove_link(self.links.pop(dev))
        dev.remove_link("iommu_group")
        dev.iommu_group = None

    def remove_device(self, dev: Device) -> None:
        """C: ``void iommu_group_remove_device(struct device *)``."""
        if self.kernel.profile.iommu_removal_message:
            dev.info(f"Removing from iommu group {self.id}")
        if dev_iommu(dev) is not None and self.domain is not None:
            self.domain.detach_dev(dev)
        self._forget(dev)
        if not self.devices:
            self._free_domains()
        self.put()

    # ---- domains

    def resv_regions(self) -> list[ResvRegion]:
        """C: ``int iommu_get_group_resv_regions(struct iommu_group *, struct list_head *)``: sorted, merged."""
        regions: list[ResvRegion] = []
        for dev in self.devices:
            unit = dev_iommu(dev)
            if unit is None:
                break  # an emulated group
            for region in unit.get_resv_regions(dev):
                insert_resv_region(regions, region)
        return regions

    def _attach_device(self, domain: IommuDomain, dev: Device) -> None:
        # 6.12: __iommu_device_set_domain()
        unit = dev_iommu(dev)
        if unit is None:
            raise err(EINVAL, f"{dev.name} is behind no IOMMU")
        blocks = domain.type == IOMMU_DOMAIN_BLOCKED or domain is self.blocking_domain
        if blocks and self.kernel.profile.iommu_require_direct and unit.requires_direct(dev):
            dev.warn(
                "Firmware has requested this device have a 1:1 IOMMU mapping, rejecting configuring the device without "
                "a 1:1 mapping. Contact your platform vendor."
            )
            raise err(EINVAL)
        domain.attach_dev(dev)

    def set_domain(self, domain: IommuDomain) -> None:
        """C: ``int __iommu_group_set_domain(...)``: all devices or none. Raises what attaching a device raises."""
        if self.domain is domain:
            return
        for n, dev in enumerate(self.devices):
            try:
                self._attach_device(domain, dev)
            except OSError:
                for back in self.devices[: n + 1]:
                    if self.domain is not None:
                        self.domain.attach_dev(back)
                raise
        self.domain = domain

    def attach(self, domain: IommuDomain) -> None:
        """
        C: ``int iommu_attach_group(struct iommu_domain *, struct iommu_group *)``.

        Raises:
            EBUSY: another domain is attached. EINVAL: no IOMMU. What attaching a device raises.
        """
        if self.domain is not None and self.domain not in (self.default_domain, self.blocking_domain):
            raise err(EBUSY, f"group {self.id} is attached to another domain")
        if not self.devices or dev_iommu(self.devices[0]) is None:
            raise err(EINVAL, f"group {self.id} has no IOMMU")
        self.set_domain(domain)

    def set_core_domain(self) -> None:
        """C: ``__iommu_group_set_core_domain()``: the blocking domain while somebody owns the DMA, else the default."""
        domain = self.blocking_domain if self.owner is not None else self.default_domain
        if domain is not None:
            self.set_domain(domain)

    def setup_default_domain(self, wanted: int | None = None) -> None:
        """
        Make the default domain and attach all devices. C: ``iommu_setup_default_domain()``.

        Raises:
            EINVAL: a device cannot be in a domain of type *wanted*. ENOMEM.
        """
        old = self.default_domain
        new = self.core.alloc_default_domain(self.devices[0], wanted)
        try:
            for dev in self.devices:
                self.core.create_direct_mappings(new, dev)
            self.default_domain = new
            self.set_domain(new)
        except OSError:
            self.default_domain = old
            new.free()
            raise
        if old is not None:
            old.free()

    def change_default_domain(self, wanted: int | None) -> None:
        """Change ``default_domain`` to type *wanted*; None is what the machine was booted with."""
        assert self.default_domain is not None
        kind = self.core.default_type if wanted is None else wanted
        if self.default_domain.type == kind:
            return
        if kind == IOMMU_DOMAIN_DMA_FQ and self.default_domain.type == IOMMU_DOMAIN_DMA:
            self.default_domain.type = IOMMU_DOMAIN_DMA_FQ  # the flush queue is all there is to it
            return
        self.setup_default_domain(kind)

    # ---- who owns the DMA

    def use_default_domain(self) -> None:
        """
        A driver that uses the DMA API is about to bind. C: ``int iommu_device_use_default_domain(struct device *)``.

        Raises:
            EBUSY: user space owns the group. EPROBE_DEFER: there is no default domain yet (6.12).
        """
        if self.default_domain is None and self.kernel.profile.iommu_default_domain_per_group:
            raise err(EPROBE_DEFER)
        if self.owner_cnt and (self.owner is not None or self.domain is not self.default_domain):
            raise err(EBUSY, f"group {self.id} is owned by user space")
        self.owner_cnt += 1

    def unuse_default_domain(self) -> None:
        """C: ``void iommu_device_unuse_default_domain(struct device *)``."""
        self.owner_cnt -= 1

    def claim_dma_owner(self, owner: object) -> None:
        """
        C: ``int iommu_group_claim_dma_owner(struct iommu_group *, void *)``.

        Raises:
            EPERM: a driver uses the group, or it is owned. EBUSY: it has a domain. EINVAL: a device needs 1:1 mappings.
        """
        if self.owner_cnt:
            raise err(EPERM, f"the DMA of group {self.id} is in use")
        self._take_dma_ownership(owner)

    def claim_device_dma_owner(self, owner: object) -> None:
        """Its owner may claim it again. C: ``int iommu_device_claim_dma_owner(struct device *, void *)``. As above."""
        if not self.owner_cnt:
            self._take_dma_ownership(owner)
        elif self.owner is not owner:
            raise err(EPERM, f"the DMA of group {self.id} has another owner")
        else:
            self.owner_cnt += 1

    def _take_dma_ownership(self, owner: object) -> None:
        if (self.domain is not None and self.domain is not self.default_domain) or self.pasids:
            raise err(EBUSY, f"group {self.id} is attached to a domain")
        if self.blocking_domain is None:
            self.blocking_domain = self.core.alloc_blocking_domain(self)
        self.set_domain(self.blocking_domain)
        self.owner = owner
        self.owner_cnt += 1

    def release_dma_owner(self) -> None:
        """C: ``void iommu_group_release_dma_owner(struct iommu_group *)``."""
        self.owner_cnt = 0
        self.owner = None
        self.set_core_domain()

    def release_device_dma_owner(self) -> None:
        """C: ``void iommu_device_release_dma_owner(struct device *)``."""
        if self.owner_cnt > 1:
            self.owner_cnt -= 1
        else:
            self.release_dma_owner()
