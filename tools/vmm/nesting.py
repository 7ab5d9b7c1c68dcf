"""
The host's PASIDs, as a VMM asks for them: /dev/ioasid gives them, the devices' container binds the guest's tables.

Page requests of the devices come from a descriptor of the container, with the host's PASID, and are answered there.
"""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from typing import TYPE_CHECKING, Final

from pykernel.hw.vtd.prq import INVALID, PAGE_REQUEST, SUCCESS
from pykernel.hw.vtd.tables import Pgtt
from pykernel.tools.vmm.memory import MAP_POPULATE
from pykernel.uapi.linux import iommu as u
from pykernel.uapi.rfc import ioasid as i
from pykernel.uapi.rfc import vfio_nesting as n

if TYPE_CHECKING:
    from pykernel.hw.vtd.queue import Invalidation
    from pykernel.hw.vtd.tables import PasidEntry
    from pykernel.syscalls import Process
    from pykernel.tools.vmm.vfio import VfioContainer

__all__ = ["Nesting", "request_words", "response_of"]

PAGE: Final = 4096
SAME: Final = 1 << 46  # above all memory of a machine
TABLE: Final = 0x27  # present, writable, user, accessed
LEAF: Final = 0xE7  # and dirty, and a page of 1 GiB
CODES: Final = {SUCCESS: u.IOMMU_PAGE_RESP_SUCCESS, INVALID: u.IOMMU_PAGE_RESP_INVALID}


class Nesting:
    """``/dev/ioasid`` of one process, and the nesting container of its devices."""

    def __init__(self, proc: Process, container: VfioContainer) -> None:
        self.proc, self.container = proc, container
        self.fd = proc.open("/dev/ioasid", os.O_RDWR | os.O_CLOEXEC)
        self.faults = -1
        self._same = False

    def _identity(self) -> int:
        """
        Where devices find a first-stage table of the VMM's: the guest passes its addresses through.

        Nobody ever changes it: devices may not write there, and the accessed and dirty bits are set. It goes with the
        container and the process.
        """
        if not self._same:
            proc, prot = self.proc, PROT_READ | PROT_WRITE
            at = proc.mmap(0, 2 * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE)
            top = struct.pack("<Q", SAME + PAGE | TABLE).ljust(PAGE, b"\0")
            proc.mem.write(at, top + struct.pack("<512Q", *(n << 30 | LEAF for n in range(512))))
            self.container.map(at, SAME, 2 * PAGE, write=False)
            self._same = True
        return SAME

    # ---- /dev/ioasid

    def alloc(self, low: int, high: int) -> int:
        """IOASID_REQUEST_ALLOC. Raises OSError."""
        size = i.ioasid_alloc_request.sizeof()
        row = i.ioasid_alloc_request(argsz=size, range=i.ioasid_alloc_request_range(min=low, max=high))
        return self.proc.ioctl(self.fd, i.IOASID_REQUEST_ALLOC, row)

    def free(self, pasid: int) -> None:
        """IOASID_REQUEST_FREE. Raises OSError."""
        self.proc.ioctl(self.fd, i.IOASID_REQUEST_FREE, bytearray(pasid.to_bytes(4, "little")))

    # ---- the container

    def _op(self, op: int, data: bytes = b"") -> int:
        head = n.vfio_iommu_type1_nesting_op.sizeof()
        row = bytearray(bytes(n.vfio_iommu_type1_nesting_op(argsz=head + len(data), flags=op)) + data)
        return self.proc.ioctl(self.container.fd, n.VFIO_IOMMU_NESTING_OP, row)

    def bind(self, pasid: int, guest: int, entry: PasidEntry) -> None:
        """Nest the guest's first-stage table, or where it has none one that changes no address. Raises OSError."""
        if entry.pgtt != Pgtt.FIRST:
            entry = replace(entry, first=self._identity(), five_levels=False, sre=True)
        self._op(n.VFIO_IOMMU_NESTING_OP_BIND_PGTBL, _bind_data(pasid, guest, u.IOMMU_SVA_GPASID_VAL, entry))

    def unbind(self, pasid: int, guest: int) -> None:
        """No more. Raises OSError."""
        self._op(n.VFIO_IOMMU_NESTING_OP_UNBIND_PGTBL, _bind_data(pasid, guest, u.IOMMU_SVA_GPASID_VAL))

    def bind_default(self, entry: PasidEntry) -> None:
        """For requests without a PASID. Raises OSError."""
        self._op(n.VFIO_IOMMU_NESTING_OP_BIND_PGTBL, _bind_data(0, 0, n.IOMMU_SVA_HPASID_DEF, entry))

    def unbind_default(self) -> None:
        """They have guest-physical addresses again. Raises OSError."""
        self._op(n.VFIO_IOMMU_NESTING_OP_UNBIND_PGTBL, _bind_data(0, 0, n.IOMMU_SVA_HPASID_DEF))

    def flush(self, pasid: int | None, addr: int, order: int) -> None:
        """Forget translations: ``4096 << order`` bytes, or with 64 all. Raises OSError."""
        number, given = pasid or 0, pasid is not None
        if order == 64:
            where = u.iommu_inv_pasid_info(flags=given * u.IOMMU_INV_PASID_FLAGS_PASID, pasid=number)
            granu = u.iommu_cache_invalidate_info_granu(pasid_info=where)
            kind = u.IOMMU_INV_GRANU_PASID
        else:
            range_ = u.iommu_inv_addr_info(
                flags=given * u.IOMMU_INV_ADDR_FLAGS_PASID,
                pasid=number,
                addr=addr,
                granule_size=4096 << order,
                nb_granules=1,
            )
            granu = u.iommu_cache_invalidate_info_granu(addr_info=range_)
            kind = u.IOMMU_INV_GRANU_ADDR
        info = u.iommu_cache_invalidate_info(
            argsz=u.iommu_cache_invalidate_info.sizeof(),
            version=u.IOMMU_CACHE_INVALIDATE_INFO_VERSION_1,
            cache=u.IOMMU_CACHE_INV_TYPE_IOTLB,
            granularity=int(kind),
            granu=granu,
        )
        self._op(n.VFIO_IOMMU_NESTING_OP_CACHE_INVLD, bytes(info))

    # ---- page requests

    def open_faults(self) -> int:
        """The descriptor that page requests come from. Raises OSError."""
        self.faults = self._op(n.VFIO_IOMMU_NESTING_OP_FAULT_FD)
        return self.faults

    def read_fault(self) -> tuple[int, u.iommu_fault]:
        """The next fault and the IOMMU group of the device. Raises OSError."""
        row = n.vfio_nesting_fault.from_bytes(self.proc.read(self.faults, n.vfio_nesting_fault.sizeof()))
        return int(row.group), row.fault

    def answer(self, group: int, prm: u.iommu_fault_page_request, code: int) -> None:
        """The answer to *prm*: a code of VT-d. Raises OSError."""
        has = prm.flags & u.IOMMU_FAULT_PAGE_REQUEST_PASID_VALID
        response = u.iommu_page_response(
            argsz=u.iommu_page_response.sizeof(),
            version=u.IOMMU_PAGE_RESP_VERSION_1,
            flags=u.IOMMU_PAGE_RESP_PASID_VALID if has else 0,
            pasid=prm.pasid,
            grpid=prm.grpid,
            code=int(CODES.get(code, u.IOMMU_PAGE_RESP_FAILURE)),
        )
        self.proc.write(self.faults, bytes(n.vfio_nesting_response(group=group, response=response)))

    def close(self) -> None:
        """The PASIDs go with it."""
        if self.faults >= 0:
            self.proc.close(self.faults)
        self.proc.close(self.fd)


def _bind_data(pasid: int, guest: int, flags: int, entry: PasidEntry | None = None) -> bytes:
    data = u.iommu_gpasid_bind_data(
        argsz=u.iommu_gpasid_bind_data.sizeof(),
        version=u.IOMMU_GPASID_BIND_VERSION_1,
        format=u.IOMMU_PASID_FORMAT_INTEL_VTD,
        addr_width=48,
        flags=flags,
        hpasid=pasid,
        gpasid=guest,
    )
    if entry is not None:
        data.addr_width = 57 if entry.five_levels else 48
        data.gpgd = entry.first
        vtd = u.iommu_gpasid_bind_data_vtd(
            flags=entry.sre * u.IOMMU_SVA_VTD_GPASID_SRE
            | entry.eafe * u.IOMMU_SVA_VTD_GPASID_EAFE
            | entry.wpe * u.IOMMU_SVA_VTD_GPASID_WPE
        )
        data.vendor = u.iommu_gpasid_bind_data_vendor(vtd=vtd)
    return bytes(data)


def request_words(source: int, pasid: int, prm: u.iommu_fault_page_request) -> tuple[int, int, int, int]:
    """A page request as a descriptor of VT-d, for the guest's PASID *pasid* (VT-d 7.5)."""
    low = PAGE_REQUEST | source << 16 | 1 << 8 | pasid << 32
    if prm.perm & u.IOMMU_FAULT_PERM_PRIV:
        low |= 1 << 53
    last = bool(prm.flags & u.IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE)
    write = bool(prm.perm & u.IOMMU_FAULT_PERM_WRITE)
    read = bool(prm.perm & u.IOMMU_FAULT_PERM_READ)
    return low, read | write << 1 | last << 2 | (prm.grpid & 0x1FF) << 3 | prm.addr & -4096 & (1 << 64) - 1, 0, 0


def response_of(what: Invalidation) -> tuple[int, int]:
    """Which group a page group response means, and its code."""
    return what.words[1] >> 3 & 0x1FF, what.words[0] >> 12 & 0xF
