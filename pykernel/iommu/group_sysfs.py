"""The files of an IOMMU group (drivers/iommu/iommu.c): reserved_regions, type, and name when it has one."""

from __future__ import annotations

from errno import EACCES, EBUSY, EINVAL, EPERM
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.sysfs import AttrGroup, Attribute, Kset
from pykernel.iommu.domain import (
    IOMMU_DOMAIN_BLOCKED,
    IOMMU_DOMAIN_DMA,
    IOMMU_DOMAIN_DMA_FQ,
    IOMMU_DOMAIN_IDENTITY,
    IOMMU_DOMAIN_UNMANAGED,
)
from pykernel.lib.string import sysfs_streq
from pykernel.log import ERR
from pykernel.task import CAP_SYS_ADMIN, CAP_SYS_RAWIO

if TYPE_CHECKING:
    from pykernel.iommu.group import IommuGroup

__all__ = ["NAME", "GroupDir"]

# drivers/iommu/iommu.c:iommu_group_show_type()
TYPES = {
    IOMMU_DOMAIN_BLOCKED: "blocked",
    IOMMU_DOMAIN_IDENTITY: "identity",
    IOMMU_DOMAIN_UNMANAGED: "unmanaged",
    IOMMU_DOMAIN_DMA: "DMA",
    IOMMU_DOMAIN_DMA_FQ: "DMA-FQ",
}
# iommu_group_store_type(): what may be asked for; 0 is what the machine was booted with
WANTED = {"identity": IOMMU_DOMAIN_IDENTITY, "DMA": IOMMU_DOMAIN_DMA, "DMA-FQ": IOMMU_DOMAIN_DMA_FQ, "auto": None}


class GroupDir(Kset):
    """/sys/kernel/iommu_groups/N."""

    attrs = AttrGroup("reserved_regions", "type")

    def __init__(self, group: IommuGroup, name: str, parent: Kset) -> None:
        super().__init__(group.kernel, name, parent)
        self.group = group

    def reserved_regions_show(self) -> str:
        """drivers/iommu/iommu.c:iommu_group_show_resv_regions()."""
        return "".join(f"0x{r.start:016x} 0x{r.end:016x} {r.type}\n" for r in self.group.resv_regions())

    def type_show(self) -> str:
        """drivers/iommu/iommu.c:iommu_group_show_type()."""
        domain = self.group.default_domain
        return f"{TYPES[domain.type] if domain is not None else 'unknown'}\n"

    def type_store(self, buf: str) -> None:
        """drivers/iommu/iommu.c:iommu_group_store_type(). Raises EACCES, EINVAL, and EBUSY (6.1) or EPERM."""
        cred = self.kernel.current.cred
        if not cred.capable(CAP_SYS_ADMIN) or not cred.capable(CAP_SYS_RAWIO):
            raise err(EACCES)
        if self.group.default_domain is None:
            raise err(EINVAL, "a group without an IOMMU")
        found = [wanted for text, wanted in WANTED.items() if sysfs_streq(buf, text)]
        if not found:
            raise err(EINVAL, f"no type of domain {buf!r}")
        (wanted,) = found
        if self.kernel.profile.iommu_default_domain_per_group:
            self._store_group(wanted)
        else:
            self._store_device(wanted)

    def _store_device(self, wanted: int | None) -> None:
        # 6.1: one device, unbound, for all but DMA -> DMA-FQ; iommu_change_dev_def_domain()
        group, old = self.group, self.group.default_domain
        assert old is not None
        if len(group.devices) != 1:
            self.kernel.log.printk(ERR, "iommu: Cannot change default domain: Group has more than one device")
            raise err(EINVAL)
        dev = group.devices[0]
        with dev.mutex:
            lazier = wanted == IOMMU_DOMAIN_DMA_FQ and old.type == IOMMU_DOMAIN_DMA
            if dev.driver is not None and not lazier:
                self.kernel.log.printk(ERR, "iommu: Device is still bound to driver")
                raise err(EBUSY)
            if group.default_domain is not group.domain:
                dev.err("Group not assigned to default domain")
                raise err(EBUSY)
            group.change_default_domain(wanted)

    def _store_group(self, wanted: int | None) -> None:
        # 6.12: nobody uses the group
        group = self.group
        assert group.default_domain is not None
        if wanted == IOMMU_DOMAIN_DMA_FQ and group.default_domain.type == IOMMU_DOMAIN_DMA:
            group.default_domain.type = IOMMU_DOMAIN_DMA_FQ
            return
        if not group.devices or group.owner_cnt:
            raise err(EPERM, "the group is in use")
        group.change_default_domain(wanted)


def _name_show(kobj: GroupDir) -> str:
    """drivers/iommu/iommu.c:iommu_group_show_name()."""
    return f"{kobj.group.name}\n"


# a group without a name has no such file: IommuGroup.set_name() makes it
NAME = Attribute("name", _name_show, None, 0o444)
