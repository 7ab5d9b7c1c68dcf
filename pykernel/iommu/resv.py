"""Reserved regions: what no mapping may touch, or what must be mapped one to one (drivers/iommu/iommu.c)."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = [
    "IOMMU_RESV_DIRECT",
    "IOMMU_RESV_DIRECT_RELAXABLE",
    "IOMMU_RESV_MSI",
    "IOMMU_RESV_RESERVED",
    "IOMMU_RESV_SW_MSI",
    "ResvRegion",
    "insert_resv_region",
]

# enum iommu_resv_type, by the words of sysfs; IOMMU_RESV_SW_MSI shows as "msi" too and exists on Arm only
IOMMU_RESV_DIRECT = "direct"
IOMMU_RESV_DIRECT_RELAXABLE = "direct-relaxable"
IOMMU_RESV_RESERVED = "reserved"
IOMMU_RESV_MSI = "msi"
IOMMU_RESV_SW_MSI = "sw-msi"
ORDER = (
    IOMMU_RESV_DIRECT,
    IOMMU_RESV_DIRECT_RELAXABLE,
    IOMMU_RESV_RESERVED,
    IOMMU_RESV_MSI,
    IOMMU_RESV_SW_MSI,
)


@dataclass(frozen=True, slots=True)
class ResvRegion:
    """``struct iommu_resv_region``: *length* bytes from *start*; *prot* of a direct mapping."""

    start: int
    length: int
    prot: int
    type: str

    @property
    def end(self) -> int:
        """The last byte."""
        return self.start + self.length - 1


def insert_resv_region(regions: list[ResvRegion], new: ResvRegion) -> None:
    """
    Add *new* to *regions*, which are sorted by address; those of one type that touch become one.

    C: ``int iommu_insert_resv_region(struct iommu_resv_region *, struct list_head *)``.
    """
    regions.append(new)
    regions.sort(key=lambda r: (r.start, ORDER.index(r.type)))
    tops: dict[str, int] = {}  # type -> where its last region is in *merged*
    merged: list[ResvRegion] = []
    for region in regions:
        top = tops.get(region.type)
        if top is None or region.type != new.type or region.start > merged[top].end + 1:
            tops[region.type] = len(merged)
            merged.append(region)
        else:
            end = max(merged[top].end, region.end)
            merged[top] = replace(merged[top], length=end - merged[top].start + 1)
    regions[:] = merged
