"""``/dev/iommu`` of a kernel with CONFIG_IOMMUFD_TEST: the mock operations of its iommufd_utils.h."""

from __future__ import annotations

from typing import Any, NamedTuple

from iommufdclient import PAGE, Iommufd

from pykernel.iommufd import selftest_uapi as u
from pykernel.uapi.linux import iommufd as i

START, LAST = u.MOCK_APERTURE_START, u.MOCK_APERTURE_LAST
MOCK_PAGE = PAGE // 2
SELFTEST_INV = u.IOMMU_HWPT_INVALIDATE_DATA_SELFTEST


class Device(NamedTuple):
    """A mock device: its object to destroy, its page table, its number as a device."""

    stdev: int
    hwpt: int
    idev: int


class Mock(Iommufd):  # type: ignore[misc]
    """A descriptor of ``/dev/iommu``."""

    def test(self, op: u.MockOp, id: int = 0, args: Any = None) -> Any:
        """IOMMU_TEST_CMD; the operation's struct afterwards."""
        cmd = u.iommu_test_cmd(size=u.iommu_test_cmd.sizeof(), op=op, id=id)
        data, at = bytearray(bytes(cmd)), u.iommu_test_cmd.offsetof("args")
        raw = bytes(args) if args is not None else b""
        data[at : at + len(raw)] = raw
        self.proc.ioctl(self.fd, u.IOMMU_TEST_CMD, data)
        return None if args is None else type(args).from_bytes(bytes(data[at : at + len(raw)]))

    def domain(self, pt: int, flags: int | None = None) -> Device:
        """A mock device, attached to *pt*."""
        op = u.MockOp.MOCK_DOMAIN if flags is None else u.MockOp.MOCK_DOMAIN_FLAGS
        row = self.test(op, pt, u.mock_domain(dev_flags=flags or 0))
        return Device(row.out_stdev_id, row.out_hwpt_id, row.out_idev_id)

    def replace(self, stdev: int, pt: int) -> int:
        return int(self.test(u.MockOp.MOCK_DOMAIN_REPLACE, stdev, u.one_id(id=pt)).id)

    def reserve(self, ioas: int, start: int, length: int) -> None:
        self.test(u.MockOp.ADD_RESERVED, ioas, u.add_reserved(start=start, length=length))

    def check_map(self, hwpt: int, va: int, iova: int, length: int) -> None:
        """The pages at *va* are in the domain at *iova*."""
        self.test(u.MockOp.MD_CHECK_MAP, hwpt, u.check_map(iova=iova, length=length, uptr=va))

    def check_refs(self, va: int, length: int, refs: int) -> None:
        """The pages at *va* are pinned *refs* times."""
        self.test(u.MockOp.MD_CHECK_REFS, 0, u.check_refs(length=length, uptr=va, refs=refs))

    def check_iotlb(self, hwpt: int, *iotlb: int) -> None:
        for n, value in enumerate(iotlb):
            self.test(u.MockOp.MD_CHECK_IOTLB, hwpt, u.check_iotlb(id=n, iotlb=value))

    def access(self, ioas: int, *, pins: bool) -> int:
        """An access; its descriptor."""
        return int(self.test(u.MockOp.CREATE_ACCESS, ioas, u.create_access(flags=pins)).out_access_fd)

    def access_replace(self, access: int, ioas: int) -> None:
        self.test(u.MockOp.ACCESS_REPLACE_IOAS, access, u.one_id(id=ioas))

    def access_pages(self, access: int, iova: int, length: int, va: int, flags: int = 0) -> int:
        """Pin pages and compare them; their number."""
        args = u.access_pages(flags=flags, iova=iova, length=length, uptr=va)
        return int(self.test(u.MockOp.ACCESS_PAGES, access, args).out_access_pages_id)

    def destroy_access_pages(self, access: int, pages: int) -> None:
        self.test(u.MockOp.DESTROY_ACCESS_PAGES, access, u.one_id(id=pages))

    def access_rw(self, access: int, iova: int, length: int, va: int, flags: int = 0) -> None:
        self.test(u.MockOp.ACCESS_RW, access, u.access_rw(iova=iova, length=length, uptr=va, flags=flags))

    def set_dirty(self, hwpt: int, iova: int, length: int, page: int, bitmap: int) -> int:
        args = u.dirty(iova=iova, length=length, page_size=page, uptr=bitmap)
        return int(self.test(u.MockOp.DIRTY, hwpt, args).out_nr_dirty)

    def get_dirty(self, hwpt: int, iova: int, length: int, page: int, bitmap: int, flags: int = 0) -> None:
        self(
            i.IOMMU_HWPT_GET_DIRTY_BITMAP,
            hwpt_id=hwpt, flags=flags, iova=iova, length=length, page_size=page, data=bitmap,
        )  # fmt: skip

    def nested(
        self, idev: int, parent: int, flags: int = 0, *, kind: int = u.IOMMU_HWPT_DATA_SELFTEST, **fields: Any
    ) -> int:
        """A nested page table, with the default data unless *fields* say otherwise."""
        data = self.put(bytes(u.iommu_hwpt_selftest(iotlb=u.IOMMU_TEST_IOTLB_DEFAULT)))
        return self.hwpt(idev, parent, flags, **{"data_type": kind, "data_len": 4, "data_uptr": data} | fields)

    def invalidate(self, hwpt: int, *reqs: tuple[int, int], num: int | None = None, **fields: Any) -> tuple[int, int]:
        """IOMMU_HWPT_INVALIDATE of (flags, iotlb_id): the errno or 0, and how many were done."""
        raw = b"".join(bytes(u.iommu_hwpt_invalidate_selftest(flags=f, iotlb_id=n)) for f, n in reqs)
        given = {"data_uptr": self.put(raw), "data_type": SELFTEST_INV, "entry_len": 8} | fields
        cmd = i.iommu_hwpt_invalidate(size=32, hwpt_id=hwpt, entry_num=len(reqs) if num is None else num, **given)
        try:
            self.proc.ioctl(self.fd, i.IOMMU_HWPT_INVALIDATE, cmd)
        except OSError as e:
            return e.errno or 0, int(cmd.entry_num)
        return 0, int(cmd.entry_num)
