"""
The tables of linux/vfio.h and linux/iommufd.h, row by row: numbers, constants, where the members of each struct lie.

Written down from headers as cc laid them out: of Linux 6.1 and 6.12 (Debian's), and of Linux 7.2. A struct's three
sizes are theirs, in this order, with a dash where a kernel has no such struct; its members are those of the newest,
``name@offset:size``, and ``:0`` is a flexible array. Two names at one place are members of a union.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from pykernel.uapi.history import at, newer, parse, since
from pykernel.uapi.linux import iommufd, vfio
from pykernel.uapi.struct import Struct, layout

KERNELS = ("6.1", "6.12", "7.2")

# ---- numbers: those from 0x70 on mean one thing to a device and another to a container

NUMBERS = """
    VFIO_GET_API_VERSION 0x3B64 15204
    VFIO_CHECK_EXTENSION 0x3B65 15205
    VFIO_SET_IOMMU 0x3B66 15206
    VFIO_GROUP_GET_STATUS 0x3B67 15207
    VFIO_GROUP_SET_CONTAINER 0x3B68 15208
    VFIO_GROUP_UNSET_CONTAINER 0x3B69 15209
    VFIO_GROUP_GET_DEVICE_FD 0x3B6A 15210
    VFIO_DEVICE_GET_INFO 0x3B6B 15211
    VFIO_DEVICE_GET_REGION_INFO 0x3B6C 15212
    VFIO_DEVICE_GET_IRQ_INFO 0x3B6D 15213
    VFIO_DEVICE_SET_IRQS 0x3B6E 15214
    VFIO_DEVICE_RESET 0x3B6F 15215
    VFIO_DEVICE_GET_PCI_HOT_RESET_INFO 0x3B70 15216
    VFIO_IOMMU_GET_INFO 0x3B70 15216
    VFIO_IOMMU_SPAPR_TCE_GET_INFO 0x3B70 15216
    VFIO_DEVICE_PCI_HOT_RESET 0x3B71 15217
    VFIO_IOMMU_MAP_DMA 0x3B71 15217
    VFIO_DEVICE_QUERY_GFX_PLANE 0x3B72 15218
    VFIO_IOMMU_UNMAP_DMA 0x3B72 15218
    VFIO_DEVICE_GET_GFX_DMABUF 0x3B73 15219
    VFIO_IOMMU_ENABLE 0x3B73 15219
    VFIO_DEVICE_IOEVENTFD 0x3B74 15220
    VFIO_IOMMU_DISABLE 0x3B74 15220
    VFIO_DEVICE_FEATURE 0x3B75 15221
    VFIO_IOMMU_DIRTY_PAGES 0x3B75 15221
    VFIO_IOMMU_SPAPR_REGISTER_MEMORY 0x3B75 15221
    VFIO_DEVICE_BIND_IOMMUFD 0x3B76 15222
    VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY 0x3B76 15222
    VFIO_DEVICE_ATTACH_IOMMUFD_PT 0x3B77 15223
    VFIO_IOMMU_SPAPR_TCE_CREATE 0x3B77 15223
    VFIO_DEVICE_DETACH_IOMMUFD_PT 0x3B78 15224
    VFIO_IOMMU_SPAPR_TCE_REMOVE 0x3B78 15224
    VFIO_MIG_GET_PRECOPY_INFO 0x3B79 15225
    VFIO_EEH_PE_OP 0x3B79 15225
    IOMMU_DESTROY 0x3B80 15232
    IOMMU_IOAS_ALLOC 0x3B81 15233
    IOMMU_IOAS_ALLOW_IOVAS 0x3B82 15234
    IOMMU_IOAS_COPY 0x3B83 15235
    IOMMU_IOAS_IOVA_RANGES 0x3B84 15236
    IOMMU_IOAS_MAP 0x3B85 15237
    IOMMU_IOAS_UNMAP 0x3B86 15238
    IOMMU_OPTION 0x3B87 15239
    IOMMU_VFIO_IOAS 0x3B88 15240
    IOMMU_HWPT_ALLOC 0x3B89 15241
    IOMMU_GET_HW_INFO 0x3B8A 15242
    IOMMU_HWPT_SET_DIRTY_TRACKING 0x3B8B 15243
    IOMMU_HWPT_GET_DIRTY_BITMAP 0x3B8C 15244
    IOMMU_HWPT_INVALIDATE 0x3B8D 15245
    IOMMU_FAULT_QUEUE_ALLOC 0x3B8E 15246
    IOMMU_IOAS_MAP_FILE 0x3B8F 15247
    IOMMU_VIOMMU_ALLOC 0x3B90 15248
    IOMMU_VDEVICE_ALLOC 0x3B91 15249
    IOMMU_IOAS_CHANGE_PROCESS 0x3B92 15250
    IOMMU_VEVENTQ_ALLOC 0x3B93 15251
    IOMMU_HW_QUEUE_ALLOC 0x3B94 15252
"""
NR = [line.split() for line in NUMBERS.split("\n") if line]


def module_of(name: str) -> Any:
    return vfio if name.lower().startswith("vfio") or name.startswith("__VFIO") else iommufd


@pytest.mark.parametrize(("name", "hexadecimal", "decimal"), NR, ids=[row[0] for row in NR])
def test_number(name: str, hexadecimal: str, decimal: str) -> None:
    """``_IO(';', nr)``: neither a size nor a direction; rust-vmm's vfio-ioctls asserts the decimals."""
    assert int(hexadecimal, 16) == int(decimal)
    assert getattr(module_of(name), name).nr == int(decimal)


# ---- constants: prefix, then what follows it and its value; ``<kernel`` is the one that brought the name

CONSTANTS = {
    "API version": "VFIO_ API_VERSION=0",
    "extensions": """VFIO_ TYPE1_IOMMU=1 SPAPR_TCE_IOMMU=2 TYPE1v2_IOMMU=3 DMA_CC_IOMMU=4 EEH=5 TYPE1_NESTING_IOMMU=6
        SPAPR_TCE_v2_IOMMU=7 NOIOMMU_IOMMU=8 UNMAP_ALL=9 UPDATE_VADDR=10""",
    "an extension that is reserved": "__VFIO_ RESERVED_TYPE1_NESTING_IOMMU=6",
    "group flags": "VFIO_GROUP_FLAGS_ VIABLE=0x1 CONTAINER_SET=0x2",
    "device flags": """VFIO_DEVICE_FLAGS_ RESET=0x1 PCI=0x2 PLATFORM=0x4 AMBA=0x8 CCW=0x10 AP=0x20 FSL_MC=0x40
        CAPS=0x80 CDX=0x100""",
    "device info capabilities": """VFIO_DEVICE_INFO_CAP_ ZPCI_BASE=1 ZPCI_GROUP=2 ZPCI_UTIL=3 ZPCI_PFIP=4
        PCI_ATOMIC_COMP=5<6.12""",
    "atomic operations": "VFIO_PCI_ATOMIC_ COMP32=1<6.12 COMP64=2<6.12 COMP128=4<6.12",
    "region flags": "VFIO_REGION_INFO_FLAG_ READ=0x1 WRITE=0x2 MMAP=0x4 CAPS=0x8",
    "region capabilities": """VFIO_REGION_INFO_CAP_ SPARSE_MMAP=1 TYPE=2 MSIX_MAPPABLE=3 NVLINK2_SSATGT=4
        NVLINK2_LNKSPD=5""",
    "region types": "VFIO_REGION_TYPE_ PCI_VENDOR_TYPE=-0x80000000 PCI_VENDOR_MASK=0xffff GFX=1 CCW=2",
    "region type of the old migration": "VFIO_REGION_TYPE_ MIGRATION_DEPRECATED=3 MIGRATION=3",
    "region subtypes": """VFIO_REGION_SUBTYPE_ INTEL_IGD_OPREGION=1 INTEL_IGD_HOST_CFG=2 INTEL_IGD_LPC_CFG=3
        NVIDIA_NVLINK2_RAM=1 IBM_NVLINK2_ATSD=1 GFX_EDID=1 CCW_ASYNC_CMD=1 CCW_SCHIB=2 CCW_CRW=3""",
    "EDID link state": "VFIO_DEVICE_GFX_LINK_STATE_ UP=1 DOWN=2",
    "interrupt info flags": "VFIO_IRQ_INFO_ EVENTFD=0x1 MASKABLE=0x2 AUTOMASKED=0x4 NORESIZE=0x8",
    "interrupt set flags": """VFIO_IRQ_SET_ DATA_NONE=0x1 DATA_BOOL=0x2 DATA_EVENTFD=0x4 ACTION_MASK=0x8
        ACTION_UNMASK=0x10 ACTION_TRIGGER=0x20 DATA_TYPE_MASK=0x7 ACTION_TYPE_MASK=0x38""",
    "PCI regions": """VFIO_PCI_ BAR0_REGION_INDEX=0 BAR1_REGION_INDEX=1 BAR2_REGION_INDEX=2 BAR3_REGION_INDEX=3
        BAR4_REGION_INDEX=4 BAR5_REGION_INDEX=5 ROM_REGION_INDEX=6 CONFIG_REGION_INDEX=7 VGA_REGION_INDEX=8
        NUM_REGIONS=9""",
    "PCI interrupts": """VFIO_PCI_ INTX_IRQ_INDEX=0 MSI_IRQ_INDEX=1 MSIX_IRQ_INDEX=2 ERR_IRQ_INDEX=3
        REQ_IRQ_INDEX=4 NUM_IRQS=5""",
    "CCW": "VFIO_CCW_ CONFIG_REGION_INDEX=0 IO_IRQ_INDEX=0 CRW_IRQ_INDEX=1 REQ_IRQ_INDEX=2",
    "AP": "VFIO_AP_ REQ_IRQ_INDEX=0<6.12 CFG_CHG_IRQ_INDEX=1<7.2",
    "feature flag bits": "VFIO_DEVICE_FEATURE_ MASK=0xffff GET=0x10000 SET=0x20000 PROBE=0x40000",
    "features": """VFIO_DEVICE_FEATURE_ PCI_VF_TOKEN=0 MIGRATION=1 MIG_DEVICE_STATE=2 LOW_POWER_ENTRY=3
        LOW_POWER_ENTRY_WITH_WAKEUP=4 LOW_POWER_EXIT=5 DMA_LOGGING_START=6 DMA_LOGGING_STOP=7 DMA_LOGGING_REPORT=8
        MIG_DATA_SIZE=9<6.12 BUS_MASTER=10<6.12 CLEAR_MASTER=0<6.12 SET_MASTER=1<6.12 DMA_BUF=11<7.2""",
    "feature of the newest tree": "VFIO_DEVICE_FEATURE_ MIG_PRECOPY_INFOv2=12",
    "migration flags": "VFIO_MIGRATION_ STOP_COPY=1 P2P=2 PRE_COPY=4<6.12",
    "migration states": """VFIO_DEVICE_STATE_ ERROR=0 STOP=1 RUNNING=2 STOP_COPY=3 RESUMING=4 RUNNING_P2P=5
        PRE_COPY=6<6.12 PRE_COPY_P2P=7<6.12""",
    "bits of the old migration's region": "VFIO_DEVICE_STATE_V1_ STOP=0 RUNNING=1 SAVING=2 RESUMING=4",
    "type 1 info flags": "VFIO_IOMMU_INFO_ PGSIZES=0x1 CAPS=0x2",
    "type 1 capabilities": "VFIO_IOMMU_TYPE1_INFO_ CAP_IOVA_RANGE=1 CAP_MIGRATION=2 DMA_AVAIL=3",
    "map flags": "VFIO_DMA_MAP_FLAG_ READ=0x1 WRITE=0x2 VADDR=0x4",
    "unmap flags": "VFIO_DMA_UNMAP_FLAG_ GET_DIRTY_BITMAP=0x1 ALL=0x2 VADDR=0x4",
    "dirty pages flags": "VFIO_IOMMU_DIRTY_PAGES_FLAG_ START=0x1 STOP=0x2 GET_BITMAP=0x4",
    "hot reset info flags": "VFIO_PCI_HOT_RESET_FLAG_ DEV_ID=0x1<6.12 DEV_ID_OWNED=0x2<6.12",
    "hot reset device numbers": "VFIO_PCI_DEVID_ OWNED=0<6.12 NOT_OWNED=-1<6.12",
    "plane flags": "VFIO_GFX_PLANE_TYPE_ PROBE=1 DMABUF=2 REGION=4",
    "ioeventfd flags": "VFIO_DEVICE_IOEVENTFD_ 8=1 16=2 32=4 64=8 SIZE_MASK=0xf",
    "bind flags": "VFIO_DEVICE_BIND_FLAG_ TOKEN=1<7.2",
    "attach and detach flags": "VFIO_DEVICE_ ATTACH_PASID=1<7.2 DETACH_PASID=1<7.2",
    "pre-copy flags": "VFIO_PRECOPY_INFO_ REINIT=1",
    "IOAS_MAP flags": "IOMMU_IOAS_MAP_ FIXED_IOVA=1 WRITEABLE=2 READABLE=4",
    "options": "IOMMU_OPTION_ RLIMIT_MODE=0 HUGE_PAGES=1 OP_SET=0 OP_GET=1",
    "VFIO_IOAS operations": "IOMMU_VFIO_IOAS_ GET=0 SET=1 CLEAR=2",
    "HWPT_ALLOC flags": "IOMMU_HWPT_ ALLOC_NEST_PARENT=1 ALLOC_DIRTY_TRACKING=2 FAULT_ID_VALID=4 ALLOC_PASID=8<7.2",
    "page table data": """IOMMU_HWPT_DATA_ NONE=0<6.12 VTD_S1=1<6.12 ARM_SMMUV3=2<7.2 AMD_GUEST=3<7.2""",
    "VTD_S1 flags": "IOMMU_VTD_S1_ SRE=1 EAFE=2 WPE=4",
    "hardware info types": """IOMMU_HW_INFO_TYPE_ NONE=0 DEFAULT=0<7.2 INTEL_VTD=1 ARM_SMMUV3=2<7.2
        TEGRA241_CMDQV=3<7.2 AMD=4<7.2""",
    "hardware info flags": "IOMMU_HW_INFO_FLAG_ INPUT_TYPE=1<7.2",
    "hardware capabilities": """IOMMU_HW_CAP_ DIRTY_TRACKING=1 PCI_PASID_EXEC=2<7.2 PCI_PASID_PRIV=4<7.2
        PCI_ATS_NOT_SUPPORTED=8""",
    "dirty tracking": "IOMMU_HWPT_ DIRTY_TRACKING_ENABLE=1 GET_DIRTY_BITMAP_NO_CLEAR=1",
    "invalidations": """IOMMU_ HWPT_INVALIDATE_DATA_VTD_S1=0 VIOMMU_INVALIDATE_DATA_ARM_SMMUV3=1<7.2
        VTD_INV_FLAGS_LEAF=1""",
    "answers to page faults": "IOMMUFD_PAGE_RESP_ SUCCESS=0 INVALID=1",
    "page faults": """IOMMU_PGFAULT_ FLAGS_PASID_VALID=1 FLAGS_LAST_PAGE=2 PERM_READ=1 PERM_WRITE=2 PERM_EXEC=4
        PERM_PRIV=8""",
    "virtual IOMMUs": "IOMMU_VIOMMU_TYPE_ DEFAULT=0<7.2 ARM_SMMUV3=1<7.2 TEGRA241_CMDQV=2<7.2",
    "event queues": "IOMMU_VEVENTQ_ TYPE_DEFAULT=0<7.2 TYPE_ARM_SMMUV3=1<7.2 FLAG_LOST_EVENTS=1<7.2",
    "hardware queues": "IOMMU_HW_QUEUE_TYPE_ DEFAULT=0<7.2 TEGRA241_CMDQV=1<7.2",
}  # fmt: skip


@pytest.mark.parametrize("row", CONSTANTS)
def test_constants(row: str) -> None:
    """Each has its value, and is dated after the newest of the three kernels that has it not."""
    prefix, *rest = CONSTANTS[row].split()
    for text in rest:
        name, value, kernel = re.fullmatch(r"(\w+)=([-x0-9a-f]+)(?:<(.*))?", text).groups()  # type: ignore[union-attr]
        module = module_of(prefix)
        assert (prefix + name, int(getattr(module, prefix + name))) == (prefix + name, int(value, 0))
        if kernel:
            born = parse(since(newer(module), prefix + name))
            before = KERNELS[KERNELS.index(kernel) - 1]
            assert parse(before) < born <= parse(kernel), prefix + name


STRINGS = {"PCI": "vfio-pci", "PLATFORM": "vfio-platform", "AMBA": "vfio-amba", "CCW": "vfio-ccw", "AP": "vfio-ap"}


@pytest.mark.parametrize(("name", "text"), STRINGS.items(), ids=list(STRINGS))
def test_device_api(name: str, text: str) -> None:
    assert getattr(vfio, f"VFIO_DEVICE_API_{name}_STRING") == text


# ---- layouts

LAYOUTS = """
    vfio_bitmap 24/24/24: pgsize@0:8 size@8:8 data@16:8
    vfio_device_attach_iommufd_pt -/12/16: argsz@0:4 flags@4:4 pt_id@8:4 pasid@12:4
    vfio_device_bind_iommufd -/16/24: argsz@0:4 flags@4:4 iommufd@8:4 out_devid@12:4 token_uuid_ptr@16:8
    vfio_device_detach_iommufd_pt -/8/12: argsz@0:4 flags@4:4 pasid@8:4
    vfio_device_feature 8/8/8: argsz@0:4 flags@4:4 data@8:0
    vfio_device_feature_bus_master -/4/4: op@0:4
    vfio_device_feature_dma_buf -/-/16: region_index@0:4 open_flags@4:4 flags@8:4 nr_ranges@12:4 dma_ranges@16:0
    vfio_device_feature_dma_logging_control 24/24/24: page_size@0:8 num_ranges@8:4 __reserved@12:4 ranges@16:8
    vfio_device_feature_dma_logging_range 16/16/16: iova@0:8 length@8:8
    vfio_device_feature_dma_logging_report 32/32/32: iova@0:8 length@8:8 page_size@16:8 bitmap@24:8
    vfio_device_feature_mig_data_size -/8/8: stop_copy_length@0:8
    vfio_device_feature_mig_state 8/8/8: device_state@0:4 data_fd@4:4
    vfio_device_feature_migration 8/8/8: flags@0:8
    vfio_device_gfx_plane_info 64/64/64: argsz@0:4 flags@4:4 drm_plane_type@8:4 drm_format@12:4 drm_format_mod@16:8
        width@24:4 height@28:4 stride@32:4 size@36:4 x_pos@40:4 y_pos@44:4 x_hot@48:4 y_hot@52:4 region_index@56:4
        dmabuf_id@56:4 reserved@60:4
    vfio_device_info 20/24/24: argsz@0:4 flags@4:4 num_regions@8:4 num_irqs@12:4 cap_offset@16:4 pad@20:4
    vfio_device_info_cap_pci_atomic_comp -/16/16: header@0:8 flags@8:4 reserved@12:4
    vfio_device_ioeventfd 32/32/32: argsz@0:4 flags@4:4 offset@8:8 data@16:8 fd@24:4 reserved@28:4
    vfio_device_low_power_entry_with_wakeup 8/8/8: wakeup_eventfd@0:4 reserved@4:4
    vfio_device_migration_info 32/32/32: device_state@0:4 reserved@4:4 pending_bytes@8:8 data_offset@16:8
        data_size@24:8
    vfio_eeh_pe_err 24/24/24: type@0:4 func@4:4 addr@8:8 mask@16:8
    vfio_eeh_pe_op 40/40/40: argsz@0:4 flags@4:4 op@8:4 err@16:24
    vfio_group_status 8/8/8: argsz@0:4 flags@4:4
    vfio_info_cap_header 8/8/8: id@0:2 version@2:2 next@4:4
    vfio_iommu_spapr_register_memory 24/24/24: argsz@0:4 flags@4:4 vaddr@8:8 size@16:8
    vfio_iommu_spapr_tce_create 40/40/40: argsz@0:4 flags@4:4 page_shift@8:4 __resv1@12:4 window_size@16:8 levels@24:4
        __resv2@28:4 start_addr@32:8
    vfio_iommu_spapr_tce_ddw_info 16/16/16: pgsizes@0:8 max_dynamic_windows_supported@8:4 levels@12:4
    vfio_iommu_spapr_tce_info 32/32/32: argsz@0:4 flags@4:4 dma32_window_start@8:4 dma32_window_size@12:4 ddw@16:16
    vfio_iommu_spapr_tce_remove 16/16/16: argsz@0:4 flags@4:4 start_addr@8:8
    vfio_iommu_type1_dirty_bitmap 8/8/8: argsz@0:4 flags@4:4 data@8:0
    vfio_iommu_type1_dirty_bitmap_get 40/40/40: iova@0:8 size@8:8 bitmap@16:24
    vfio_iommu_type1_dma_map 32/32/32: argsz@0:4 flags@4:4 vaddr@8:8 iova@16:8 size@24:8
    vfio_iommu_type1_dma_unmap 24/24/24: argsz@0:4 flags@4:4 iova@8:8 size@16:8 data@24:0
    vfio_iommu_type1_info 24/24/24: argsz@0:4 flags@4:4 iova_pgsizes@8:8 cap_offset@16:4 pad@20:4
    vfio_iommu_type1_info_cap_iova_range 16/16/16: header@0:8 nr_iovas@8:4 reserved@12:4 iova_ranges@16:0
    vfio_iommu_type1_info_cap_migration 32/32/32: header@0:8 flags@8:4 pgsize_bitmap@16:8 max_dirty_bitmap_size@24:8
    vfio_iommu_type1_info_dma_avail 12/12/12: header@0:8 avail@8:4
    vfio_iova_range 16/16/16: start@0:8 end@8:8
    vfio_irq_info 16/16/16: argsz@0:4 flags@4:4 index@8:4 count@12:4
    vfio_irq_set 20/20/20: argsz@0:4 flags@4:4 index@8:4 start@12:4 count@16:4 data@20:0
    vfio_pci_dependent_device 8/8/8: group_id@0:4 devid@0:4 segment@4:2 bus@6:1 devfn@7:1
    vfio_pci_hot_reset 12/12/12: argsz@0:4 flags@4:4 count@8:4 group_fds@12:0
    vfio_pci_hot_reset_info 12/12/12: argsz@0:4 flags@4:4 count@8:4 devices@12:0
    vfio_precopy_info -/24/24: argsz@0:4 flags@4:4 initial_bytes@8:8 dirty_bytes@16:8
    vfio_region_dma_range -/-/16: offset@0:8 length@8:8
    vfio_region_gfx_edid 24/24/24: edid_offset@0:4 edid_max_size@4:4 edid_size@8:4 max_xres@12:4 max_yres@16:4
        link_state@20:4
    vfio_region_info 32/32/32: argsz@0:4 flags@4:4 index@8:4 cap_offset@12:4 size@16:8 offset@24:8
    vfio_region_info_cap_nvlink2_lnkspd 16/16/16: header@0:8 link_speed@8:4 __pad@12:4
    vfio_region_info_cap_nvlink2_ssatgt 16/16/16: header@0:8 tgt@8:8
    vfio_region_info_cap_sparse_mmap 16/16/16: header@0:8 nr_areas@8:4 reserved@12:4 areas@16:0
    vfio_region_info_cap_type 16/16/16: header@0:8 type@8:4 subtype@12:4
    vfio_region_sparse_mmap_area 16/16/16: offset@0:8 size@8:8
    iommu_destroy -/8/8: size@0:4 id@4:4
    iommu_fault_alloc -/16/16: size@0:4 flags@4:4 out_fault_id@8:4 out_fault_fd@12:4
    iommu_hw_info -/40/40: size@0:4 flags@4:4 dev_id@8:4 data_len@12:4 data_uptr@16:8 in_data_type@24:4
        out_data_type@24:4 out_max_pasid_log2@28:1 __reserved@29:3 out_capabilities@32:8
    iommu_hw_info_amd -/-/16: efr@0:8 efr2@8:8
    iommu_hw_info_arm_smmuv3 -/-/40: flags@0:4 __reserved@4:4 idr@8:24 iidr@32:4 aidr@36:4
    iommu_hw_info_tegra241_cmdqv -/-/8: flags@0:4 version@4:1 log2vcmdqs@5:1 log2vsids@6:1 __reserved@7:1
    iommu_hw_info_vtd -/24/24: flags@0:4 __reserved@4:4 cap_reg@8:8 ecap_reg@16:8
    iommu_hw_queue_alloc -/-/40: size@0:4 flags@4:4 viommu_id@8:4 type@12:4 index@16:4 out_hw_queue_id@20:4
        nesting_parent_iova@24:8 length@32:8
    iommu_hwpt_alloc -/48/48: size@0:4 flags@4:4 dev_id@8:4 pt_id@12:4 out_hwpt_id@16:4 __reserved@20:4 data_type@24:4
        data_len@28:4 data_uptr@32:8 fault_id@40:4 __reserved2@44:4
    iommu_hwpt_amd_guest -/-/32: dte@0:32
    iommu_hwpt_arm_smmuv3 -/-/16: ste@0:16
    iommu_hwpt_get_dirty_bitmap -/48/48: size@0:4 hwpt_id@4:4 flags@8:4 __reserved@12:4 iova@16:8 length@24:8
        page_size@32:8 data@40:8
    iommu_hwpt_invalidate -/32/32: size@0:4 hwpt_id@4:4 data_uptr@8:8 data_type@16:4 entry_len@20:4 entry_num@24:4
        __reserved@28:4
    iommu_hwpt_page_response -/8/8: cookie@0:4 code@4:4
    iommu_hwpt_pgfault -/40/40: flags@0:4 dev_id@4:4 pasid@8:4 grpid@12:4 perm@16:4 __reserved@20:4 addr@24:8
        length@32:4 cookie@36:4
    iommu_hwpt_set_dirty_tracking -/16/16: size@0:4 flags@4:4 hwpt_id@8:4 __reserved@12:4
    iommu_hwpt_vtd_s1 -/24/24: flags@0:8 pgtbl_addr@8:8 addr_width@16:4 __reserved@20:4
    iommu_hwpt_vtd_s1_invalidate -/24/24: addr@0:8 npages@8:8 flags@16:4 __reserved@20:4
    iommu_ioas_alloc -/12/12: size@0:4 flags@4:4 out_ioas_id@8:4
    iommu_ioas_allow_iovas -/24/24: size@0:4 ioas_id@4:4 num_iovas@8:4 __reserved@12:4 allowed_iovas@16:8
    iommu_ioas_change_process -/-/8: size@0:4 __reserved@4:4
    iommu_ioas_copy -/40/40: size@0:4 flags@4:4 dst_ioas_id@8:4 src_ioas_id@12:4 length@16:8 dst_iova@24:8
        src_iova@32:8
    iommu_ioas_iova_ranges -/32/32: size@0:4 ioas_id@4:4 num_iovas@8:4 __reserved@12:4 allowed_iovas@16:8
        out_iova_alignment@24:8
    iommu_ioas_map -/40/40: size@0:4 flags@4:4 ioas_id@8:4 __reserved@12:4 user_va@16:8 length@24:8 iova@32:8
    iommu_ioas_map_file -/-/40: size@0:4 flags@4:4 ioas_id@8:4 fd@12:4 start@16:8 length@24:8 iova@32:8
    iommu_ioas_unmap -/24/24: size@0:4 ioas_id@4:4 iova@8:8 length@16:8
    iommu_iova_range -/16/16: start@0:8 last@8:8
    iommu_option -/24/24: size@0:4 option_id@4:4 op@8:2 __reserved@10:2 object_id@12:4 val64@16:8
    iommu_vdevice_alloc -/-/24: size@0:4 viommu_id@4:4 dev_id@8:4 out_vdevice_id@12:4 virt_id@16:8
    iommu_vevent_arm_smmuv3 -/-/32: evt@0:32
    iommu_vevent_tegra241_cmdqv -/-/16: lvcmdq_err_map@0:16
    iommu_veventq_alloc -/-/32: size@0:4 flags@4:4 viommu_id@8:4 type@12:4 veventq_depth@16:4 out_veventq_id@20:4
        out_veventq_fd@24:4 __reserved@28:4
    iommu_vfio_ioas -/12/12: size@0:4 ioas_id@4:4 op@8:2 __reserved@10:2
    iommu_viommu_alloc -/-/40: size@0:4 flags@4:4 type@8:4 dev_id@12:4 hwpt_id@16:4 out_viommu_id@20:4 data_len@24:4
        __reserved@28:4 data_uptr@32:8
    iommu_viommu_arm_smmuv3_invalidate -/-/16: cmd@0:16
    iommu_viommu_tegra241_cmdqv -/-/16: out_vintf_mmap_offset@0:8 out_vintf_mmap_length@8:8
    iommufd_vevent_header -/-/8: flags@0:4 sequence@4:4
"""
ROWS = [row.split() for row in LAYOUTS.replace("\n        ", " ").split("\n") if row]


def struct_of(name: str) -> type[Struct]:
    cls: type[Struct] = getattr(module_of(name), name)
    return cls


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_members(row: list[str]) -> None:
    name, _, *members = row
    wanted = {}
    for text in members:
        member, offset, size = re.fullmatch(r"(\w+)@(\d+):(\d+)", text).groups()  # type: ignore[union-attr]
        wanted[member.lstrip("_")] = (int(offset), int(size))  # a name of a Python class cannot begin so
    assert {field.name: (field.offset, field.size) for field in layout(struct_of(name))} == wanted


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_size_in_each_kernel(row: list[str]) -> None:
    """What grew, grew when it did; what a kernel has not is dated after it."""
    name, sizes = row[0], row[1].rstrip(":").split("/")
    cls = struct_of(name)
    for kernel, size in zip(KERNELS, sizes, strict=True):
        born = since(newer(module_of(name)), name)
        exists = not born or parse(born) <= parse(kernel)
        assert (kernel, str(at(cls, parse(kernel)).sizeof()) if exists else "-") == (kernel, size)


def test_every_struct_of_the_headers_has_a_row() -> None:
    """But those that Linux 7.3 brought."""
    known = {
        name
        for module in (vfio, iommufd)
        for name, cls in vars(module).items()
        if isinstance(cls, type) and issubclass(cls, Struct) and cls.__module__ == module.__name__
        and parse(since(newer(module), name) or "3.6") <= parse("7.2")
    }  # fmt: skip
    assert known - {row[0] for row in ROWS} == set()
