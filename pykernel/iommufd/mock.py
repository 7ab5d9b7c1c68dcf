"""An IOMMU that translates nothing and devices that do nothing, for tests (drivers/iommu/iommufd/selftest.c)."""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from pykernel.base.bus import Bus
from pykernel.base.core import Device
from pykernel.errors import Oops, err
from pykernel.iommu.group import IommuGroup
from pykernel.iommu.iommu import (
    IOMMU_CAP_CACHE_COHERENCY,
    IOMMU_CAP_DIRTY_TRACKING,
    IOMMU_DOMAIN_BLOCKED,
    IOMMU_DOMAIN_UNMANAGED,
    Geometry,
    IommuDomain,
)
from pykernel.iommu.nested import IOMMU_DOMAIN_NESTED
from pykernel.iommufd.selftest_uapi import (
    IOMMU_HW_INFO_SELFTEST_REGVAL,
    IOMMU_HW_INFO_TYPE_SELFTEST,
    IOMMU_HWPT_DATA_SELFTEST,
    IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
    IOMMU_TEST_INVALIDATE_FLAG_ALL,
    MOCK_APERTURE_LAST,
    MOCK_APERTURE_START,
    MOCK_FLAGS_DEVICE_HUGE_IOVA,
    MOCK_FLAGS_DEVICE_NO_DIRTY,
    MOCK_HUGE_PAGE_SIZE,
    MOCK_IO_PAGE_SIZE,
    MOCK_NESTED_DOMAIN_IOTLB_NUM,
    iommu_hwpt_invalidate_selftest,
    iommu_hwpt_selftest,
    iommu_test_hw_info,
)
from pykernel.lib.idr import Ida
from pykernel.uapi.linux.iommufd import IOMMU_HWPT_ALLOC_DIRTY_TRACKING, IOMMU_HWPT_ALLOC_NEST_PARENT

if TYPE_CHECKING:
    from pykernel.iommu.intel import IntelIommu
    from pykernel.iommu.user import UserData, UserDataArray
    from pykernel.kernel import Kernel

__all__ = ["MockBus", "MockDev", "MockDomain", "MockNestedDomain"]

FLAGS: Final = MOCK_FLAGS_DEVICE_NO_DIRTY | MOCK_FLAGS_DEVICE_HUGE_IOVA


class MockBus:
    """The bus ``iommufd_mock``, in a kernel with CONFIG_IOMMUFD_TEST."""

    def __init__(self, kernel: Kernel) -> None:
        self.bus = Bus(kernel, "iommufd_mock")
        self.ids = Ida()


class MockDev(Device):
    """``struct mock_dev``, with an IOMMU and a group of its own."""

    def __init__(self, kernel: Kernel, flags: int) -> None:
        """C: ``struct mock_dev *mock_dev_create(unsigned long)``. Raises EINVAL: an unknown flag."""
        if flags & ~FLAGS:
            raise err(EINVAL, f"flags {flags:#x}")
        self.mock = kernel.sub(MockBus)
        self.number = self.mock.ids.alloc()
        super().__init__(kernel, f"iommufd_mock{self.number}", bus=self.mock.bus)
        self.unit = MockIommu(kernel, flags)
        try:
            self.register()
        except OSError:
            self.mock.ids.free(self.number)
            raise
        self.iommu = cast("IntelIommu", self.unit)
        group = IommuGroup(kernel)
        group.add_device(self)
        group.default_domain = self.unit.domain_alloc(IOMMU_DOMAIN_BLOCKED)
        group.set_domain(group.default_domain)
        group.put()

    def destroy(self) -> None:
        """C: ``void mock_dev_destroy(struct mock_dev *)``."""
        if self.iommu_group is not None:
            self.iommu_group.remove_device(self)
        self.iommu = None
        self.unregister()
        self.mock.ids.free(self.number)


class MockIommu:
    """``mock_ops``: the IOMMU of one mock device."""

    scalable = False
    intr_remap = True

    def __init__(self, kernel: Kernel, flags: int) -> None:
        self.kernel, self.flags = kernel, flags

    def capable(self, cap: str) -> bool:
        """drivers/iommu/iommufd/selftest.c:mock_domain_capable()."""
        dirty = not self.flags & MOCK_FLAGS_DEVICE_NO_DIRTY
        return cap == IOMMU_CAP_CACHE_COHERENCY or (cap == IOMMU_CAP_DIRTY_TRACKING and dirty)

    def get_resv_regions(self, dev: Device) -> list[Any]:
        """None."""
        return []

    def requires_direct(self, dev: Device) -> bool:
        """No."""
        return False

    def domain_alloc(self, type: int, *, dirty_tracking: bool = False) -> IommuDomain:
        """The blocking domain, as the default one is."""
        return MockDomainBase(cast("IntelIommu", self), type)

    def domain_alloc_user(
        self, dev: Device, flags: int, parent: IommuDomain | None, data: UserData | None
    ) -> IommuDomain:
        """drivers/iommu/iommufd/selftest.c:mock_domain_alloc_user(). Raises EOPNOTSUPP; EINVAL, EFAULT: the data."""
        if parent is not None:
            if data is None or data.data_type != IOMMU_HWPT_DATA_SELFTEST or flags:
                raise err(EOPNOTSUPP)
            if not isinstance(parent, MockDomain):
                raise err(EINVAL)
            return MockNestedDomain(self, data.copy(iommu_hwpt_selftest, IOMMU_HWPT_DATA_SELFTEST).iotlb)
        dirty = bool(flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
        unknown = flags & ~(IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
        if unknown or data is not None or (dirty and self.flags & MOCK_FLAGS_DEVICE_NO_DIRTY):
            raise err(EOPNOTSUPP)
        return MockDomain(self, dirty=dirty)

    def hw_info(self) -> tuple[int, bytes]:
        """drivers/iommu/iommufd/selftest.c:mock_domain_hw_info()."""
        return IOMMU_HW_INFO_TYPE_SELFTEST, bytes(iommu_test_hw_info(test_reg=IOMMU_HW_INFO_SELFTEST_REGVAL))

    def dev_enable_feat(self, dev: Device) -> None:
        """Page requests need nothing here."""

    def dev_disable_feat(self, dev: Device) -> None:
        """Nor to be switched off."""


class MockDomainBase(IommuDomain):
    """What the domains have in common: attaching does nothing."""

    def attach_dev(self, dev: Device) -> None:
        """drivers/iommu/iommufd/selftest.c:mock_domain_nop_attach(). Raises EINVAL: the device cannot track."""
        unit: Any = dev.iommu
        if self.has_dirty_ops and unit.flags & MOCK_FLAGS_DEVICE_NO_DIRTY:
            raise err(EINVAL)

    def detach_dev(self, dev: Device) -> None:
        """Nothing."""


class Pfn(NamedTuple):
    """A mapped page: its physical address; whether a mapping begins or ends there; of a huge page; written."""

    pa: int
    edge: bool
    huge: bool
    dirty: bool = False


class MockDomain(MockDomainBase):
    """``struct mock_iommu_domain``: pages of half the processor's size, in a table by number."""

    def __init__(self, unit: MockIommu, *, dirty: bool) -> None:
        super().__init__(cast("IntelIommu", unit), IOMMU_DOMAIN_UNMANAGED)
        self.huge = bool(unit.flags & MOCK_FLAGS_DEVICE_HUGE_IOVA)
        self.pgsize_bitmap = MOCK_IO_PAGE_SIZE | (MOCK_HUGE_PAGE_SIZE if self.huge else 0)
        self.geometry = Geometry(MOCK_APERTURE_START, MOCK_APERTURE_LAST)
        self.pfns: dict[int, Pfn] = {}
        self.dirty_ops, self.tracking = dirty, False

    def free(self) -> None:
        """Raises Oops: something is mapped."""
        if self.pfns:
            raise Oops(f"a mock domain goes with {len(self.pfns)} pages mapped")

    def map(self, iova: int, pa: int, size: int, prot: int) -> None:
        """drivers/iommu/iommufd/selftest.c:mock_domain_map_pages(). Raises EINVAL: misaligned. ENOMEM: by injection."""
        if (iova | pa | size) % MOCK_IO_PAGE_SIZE:
            raise err(EINVAL)
        self.unit.kernel.faults.alloc("mock_domain_map_pages")
        for at in range(0, size, MOCK_IO_PAGE_SIZE):
            number = (iova + at) // MOCK_IO_PAGE_SIZE
            if number in self.pfns:
                raise Oops(f"mock page {iova + at:#x} is mapped already")
            edge = at in (0, size - MOCK_IO_PAGE_SIZE)
            self.pfns[number] = Pfn(pa + at, edge, self._is_huge(iova, pa, size, at))

    def _is_huge(self, iova: int, pa: int, size: int, at: int) -> bool:
        # drivers/iommu/iommu.c:iommu_pgsize()
        if not self.huge or (iova - pa) % MOCK_HUGE_PAGE_SIZE:
            return False
        head = (iova + at) // MOCK_HUGE_PAGE_SIZE * MOCK_HUGE_PAGE_SIZE
        return head >= iova and head + MOCK_HUGE_PAGE_SIZE <= iova + size

    def unmap(self, iova: int, size: int) -> int:
        """drivers/iommu/iommufd/selftest.c:mock_domain_unmap_pages(). Raises Oops: a mapping would be torn apart."""
        for at in range(0, size, MOCK_IO_PAGE_SIZE):
            page = self.pfns.pop((iova + at) // MOCK_IO_PAGE_SIZE, None)
            first_or_last = at in (0, size - MOCK_IO_PAGE_SIZE)
            if page is not None and first_or_last and not page.edge and not self.huge:
                raise Oops(f"{size:#x} bytes at {iova:#x} are not what was mapped")
        return size

    def iova_to_phys(self, iova: int) -> int | None:
        """drivers/iommu/iommufd/selftest.c:mock_domain_iova_to_phys()."""
        page = self.pfns.get(iova // MOCK_IO_PAGE_SIZE)
        return None if page is None else page.pa

    # ---- dirty pages

    @property
    def has_dirty_ops(self) -> bool:
        """Allocated with IOMMU_HWPT_ALLOC_DIRTY_TRACKING."""
        return self.dirty_ops

    def set_dirty_tracking(self, on: bool) -> None:
        """drivers/iommu/iommufd/selftest.c:mock_domain_set_dirty_tracking()."""
        self.tracking = on

    def mark_dirty(self, number: int) -> bool:
        """A device wrote the page with this number; False: there is none."""
        page = self.pfns.get(number)
        if page is not None:
            self.pfns[number] = page._replace(dirty=True)
        return page is not None

    def _test_and_clear(self, iova: int, size: int, *, clear: bool) -> bool:
        found = False
        for number in range(iova // MOCK_IO_PAGE_SIZE, (iova + size) // MOCK_IO_PAGE_SIZE):
            page = self.pfns.get(number)
            if page is not None and page.dirty:
                found = True
                if clear:
                    self.pfns[number] = page._replace(dirty=False)
        return found

    def read_and_clear_dirty(self, iova: int, size: int, *, clear: bool = True) -> list[tuple[int, int]]:
        """drivers/iommu/iommufd/selftest.c:mock_domain_read_and_clear_dirty(). Raises EINVAL: it is off."""
        if not self.tracking:
            raise err(EINVAL)
        return self._read(iova, size, clear=clear)

    def clear_dirty(self, iova: int, size: int) -> None:
        """Without a bitmap it works when it is off, too."""
        self._read(iova, size, clear=True)

    def _read(self, iova: int, size: int, *, clear: bool) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        end = iova + size
        while iova < end:
            page = self.pfns.get(iova // MOCK_IO_PAGE_SIZE)
            step = MOCK_HUGE_PAGE_SIZE if page is not None and page.huge else MOCK_IO_PAGE_SIZE
            if page is not None and self._test_and_clear(iova & -step, step, clear=clear):
                found.append((iova, step))
            iova += step
        return found


class MockNestedDomain(MockDomainBase):
    """``struct mock_iommu_domain_nested``: four numbers that stand for an IOTLB."""

    def __init__(self, unit: MockIommu, iotlb: int) -> None:
        super().__init__(cast("IntelIommu", unit), IOMMU_DOMAIN_NESTED)
        self.iotlb = [iotlb] * MOCK_NESTED_DOMAIN_IOTLB_NUM

    def cache_invalidate_user(self, array: UserDataArray) -> None:
        """drivers/iommu/iommufd/selftest.c:mock_domain_cache_invalidate_user(). Raises EINVAL, EOPNOTSUPP, EFAULT."""
        num, array.entry_num = array.entry_num, 0
        if array.data_type != IOMMU_HWPT_INVALIDATE_DATA_SELFTEST:
            raise err(EINVAL)
        for n in range(num):
            inv = array.entry(n).copy(iommu_hwpt_invalidate_selftest, IOMMU_HWPT_INVALIDATE_DATA_SELFTEST)
            if inv.flags & ~IOMMU_TEST_INVALIDATE_FLAG_ALL:
                raise err(EOPNOTSUPP)
            if inv.iotlb_id >= MOCK_NESTED_DOMAIN_IOTLB_NUM:
                raise err(EINVAL)
            if inv.flags:
                self.iotlb[:] = [0] * MOCK_NESTED_DOMAIN_IOTLB_NUM
            else:
                self.iotlb[inv.iotlb_id] = 0
            array.entry_num += 1
