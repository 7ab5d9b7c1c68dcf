"""
``linux/vfio.h`` and ``linux/iommu.h`` of "vfio: expose virtual Shared Virtual Addressing to VMs", V8, 3 March 2021.

A container of type VFIO_TYPE1_NESTING_IOMMU whose user binds its guest's page tables to PASIDs of ``/dev/ioasid``;
never in a header of Linux. How a guest gets the page requests of its devices was an open question: the posted answers
were a region of each vfio-pci device. Here it is a descriptor (``VFIO_IOMMU_NESTING_OP_FAULT_FD``), as IOMMUFD has.
"""

from __future__ import annotations

from typing import Annotated, Final

from pykernel.uapi.ioctl import _IO
from pykernel.uapi.linux.iommu import iommu_fault, iommu_page_response
from pykernel.uapi.linux.vfio import VFIO_BASE, VFIO_TYPE, vfio_info_cap_header
from pykernel.uapi.struct import ZERO, Struct, Union, u8, u16, u32, u64

HEADERS: Final = ()

IOMMU_SVA_HPASID_DEF: Final = 1 << 1  # of iommu_gpasid_bind_data.flags: the PASID that stands for requests without


class iommu_nesting_info_vtd(Struct):
    """``struct iommu_nesting_info_vtd``: what of CAP_REG and ECAP_REG matters to first-stage tables."""

    flags: u32 = 0
    padding: Annotated[bytes, u8, 12] = b""
    cap_reg: u64 = 0
    ecap_reg: u64 = 0


IOMMU_NESTING_FEAT_BIND_PGTBL: Final = 1 << 0
IOMMU_NESTING_FEAT_CACHE_INVLD: Final = 1 << 1


class iommu_nesting_info_vendor(Union, ctype="__typeof__(((struct iommu_nesting_info *)0)->vendor)"):
    """``iommu_nesting_info.vendor``, by ``format``."""

    vtd: iommu_nesting_info_vtd = ZERO


class iommu_nesting_info(Struct):
    """``struct iommu_nesting_info``: what the IOMMU can do with a guest's page tables."""

    argsz: u32 = 0
    flags: u32 = 0
    format: u32 = 0
    features: u32 = 0
    addr_width: u16 = 0
    pasid_bits: u16 = 0
    padding: Annotated[bytes, u8, 12] = b""
    vendor: iommu_nesting_info_vendor = ZERO


VFIO_IOMMU_TYPE1_INFO_CAP_NESTING: Final = 4


class vfio_iommu_type1_info_cap_nesting(Struct):
    """Capability 4 of ``vfio_iommu_type1_info``."""

    header: vfio_info_cap_header = ZERO
    info: iommu_nesting_info = ZERO


VFIO_NESTING_OP_MASK: Final = 0xFFFF
VFIO_IOMMU_NESTING_OP_BIND_PGTBL: Final = 0  # data: struct iommu_gpasid_bind_data
VFIO_IOMMU_NESTING_OP_UNBIND_PGTBL: Final = 1  # data: struct iommu_gpasid_bind_data
VFIO_IOMMU_NESTING_OP_CACHE_INVLD: Final = 2  # data: struct iommu_cache_invalidate_info
VFIO_IOMMU_NESTING_OP_FAULT_FD: Final = 3  # no data; not of the series


class vfio_iommu_type1_nesting_op(Struct):
    """``struct vfio_iommu_type1_nesting_op``: the operation is in ``flags``, its data follows."""

    argsz: u32 = 0
    flags: u32 = 0


VFIO_IOMMU_NESTING_OP: Final = _IO(VFIO_TYPE, VFIO_BASE + 18, vfio_iommu_type1_nesting_op)


class vfio_nesting_fault(Struct):
    """What is read from the descriptor of VFIO_IOMMU_NESTING_OP_FAULT_FD: a page request, with the host's PASID."""

    group: u32 = 0
    reserved: u32 = 0
    fault: iommu_fault = ZERO


class vfio_nesting_response(Struct):
    """What is written to it: the answer to a page request of a device in ``group``."""

    group: u32 = 0
    reserved: u32 = 0
    response: iommu_page_response = ZERO
