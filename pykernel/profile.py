"""
Which kernel: one frozen row per kernel that is emulated.

A behaviour that differs between kernels is a field here, read where it matters; no driver compares versions. A field is
named after its owner (``idxd_event_log`` is the idxd driver's) and says what is true of that kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

__all__ = ["CONFIG", "PROFILES", "Profile", "configure", "get"]

IDXD_IDS_6_1: tuple[tuple[int, str], ...] = ((0x0B25, "dsa"), (0x0CFE, "iax"))
IDXD_IDS_6_12: tuple[tuple[int, str], ...] = (
    (0x0B25, "dsa"),
    (0x11FB, "dsa"),
    (0x1212, "dsa"),
    (0x0CFE, "iax"),
    (0x1216, "iax"),
)
IDXD_IDS_7_2: tuple[tuple[int, str], ...] = (*IDXD_IDS_6_12, (0xB02D, "iax"))

DEBIAN_CONFIG = frozenset(
    {
        "INTEL_IDXD_BUS",
        "INTEL_IDXD",
        "INTEL_IDXD_SVM",
        "INTEL_IDXD_PERFMON",
        "INTEL_IOMMU",
        "INTEL_IOMMU_SVM",
        "IOMMU_SVA",
        "PCI_ATS",
        "PCI_PRI",
        "PCI_PASID",
        "PCI_IOV",
        "VFIO",
        "VFIO_PCI",
        "VHOST",
    }
)

# every option that can be set or unset; those beyond Debian's are read by a driver
IOMMUFD_CONFIG = frozenset({"IOMMUFD", "IOMMUFD_TEST", "IOMMUFD_VFIO_CONTAINER", "VFIO_DEVICE_CDEV"})
CONFIG = DEBIAN_CONFIG | IOMMUFD_CONFIG | {"INTEL_IDXD_COMPAT", "VFIO_NOIOMMU"}


@dataclass(frozen=True)
class Profile:
    """One kernel: its name, its release, its configuration and the behaviours in which it differs from the others."""

    name: str
    release: str
    version: tuple[int, int]
    config: frozenset[str] = DEBIAN_CONFIG

    # driver core
    probe_failure_dev_err: bool = False
    """A failed probe is `probe with driver %s failed` at level err; before 6.7 `%s: probe of %s failed` at warning."""

    misc_minors_above_255: bool = False
    """Dynamic minors of misc devices are 256 and up; before, 127 and down."""

    # fs
    epoll_wait_fd_first: bool = False
    """epoll_wait() with both a closed descriptor and a bad count is EBADF; before, EINVAL."""
    eventfd_write_exact: bool = False
    """A write to an eventfd is of 8 bytes, else EINVAL; before, more were taken and the first 8 counted."""
    kernfs_llseek_active: bool = False
    """lseek() of a removed node is ENODEV, and a mappable binary file seeks by its own size."""

    # iommu
    iommu_removal_message: bool = True
    """`Removing from iommu group` is told."""
    iommu_blocked_domain: bool = False
    """The IOMMU's driver has a domain that blocks; before, an empty one stands for it."""
    iommu_default_domain_per_group: bool = False
    """`type` of a group asks whether the group is in use (EPERM); before, whether its only device is bound (EBUSY)."""
    iommu_require_direct: bool = False
    """A device with a region that must be mapped one to one (RMRR) cannot be owned by user space."""
    iommu_dac_notice: bool = False
    """The first DMA address above 4 GiB is told in the log; from then on those below are not looked for."""
    iommu_snoop_needs_empty: bool = False
    """Cache coherency can be enforced only before something is mapped."""
    iommu_sva_domain: bool = False
    """An address space that is bound is a domain of the PASID; before 6.2 the IOMMU's driver keeps a list of them."""

    # VT-d
    vtd_supervisor_pasids: bool = True
    """Entries of PASID tables can let supervisor requests through, which the kernel's own PASID needs."""
    vtd_teardown_drains: bool = False
    """Whoever takes an entry of a PASID table away waits for its page requests; before, only the end of a binding."""
    vtd_prq_private_data: bool = True
    """Private data of a page request asks for an answer and comes back with it; 6.12 does not look at it."""
    vtd_context_at_probe: bool = False
    """In scalable mode a context entry stays as long as the device; before, it came and went with the domain."""
    vtd_iopf_enables_pri: bool = False
    """Page requests are switched on by the feature IOPF; before, with the domain."""
    vtd_caps_at_probe: bool = False
    """ATS and page requests of a device are on as long as it is there; before, while it has a domain."""

    iommufd: bool = False
    """There is IOMMUFD: its CONFIG_ options are known."""

    # pci
    pci_msi_chip_per_device: bool = False
    """Each device's vectors have a chip of their own, `PCI-MSIX-0000:6a:01.0`; before 6.2 all have `PCI-MSI`."""

    # vfio-pci
    vfio_pci_exp_v2_size: int = 0x32
    """Bytes of the PCI Express capability of an endpoint with a link, version 2; behind them nothing is virtual."""
    vfio_pci_tells_hidden: bool = True
    """`hiding cap` is told at level info; later it is a debug message."""
    vfio_pci_dvsec: bool = False
    """Designated vendor-specific extended capabilities are not hidden."""
    vfio_pci_io64: bool = False
    """BARs are accessed 8 bytes at a time."""
    vfio_pci_info_any_size: bool = False
    """VFIO_DEVICE_GET_INFO fills up to 24 bytes and tells AtomicOps; before, 16, or 20 with cap_offset."""
    vfio_pci_trigger_only_minus_one: bool = False
    """An eventfd below -1 for ERR or REQ is EINVAL; before, nothing happened."""
    vfio_pci_dynamic_msix: bool = False
    """Vectors of MSI-X can be added to those that are on, and a range is looked at one by one; before, as a whole."""
    vfio_pci_hot_reset_cdev: bool = False
    """A hot reset without groups is for devices that were opened by their own node, and refused before all else."""

    # mm
    mm_pin_unshares_zero_page: bool = False
    """Memory that was never written and is pinned for reading becomes the client's own page; before 6.2 it does not."""

    # vfio, type 1
    vfio_type1_info_any_size: bool = False
    """VFIO_IOMMU_GET_INFO fills as many bytes as argsz has; before, 16, or 20 where there is room for cap_offset."""
    vfio_type1_last_address: bool = False
    """A mapping up to the last address is found as others are; a range that wraps is EOVERFLOW. Before 6.18, EINVAL."""

    # lib
    kstrtobool_enable: bool = False
    """kstrtobool() also takes e/E (enable) and d/D (disable)."""

    # idxd: what the driver knows
    idxd_device_ids: tuple[tuple[int, str], ...] = IDXD_IDS_6_1
    """idxd_pci_tbl: device ID and the kind of accelerator."""
    idxd_event_log: bool = False
    """The event log: attribute event_log_size, the ring in memory, completion-record faults served by the kernel."""
    idxd_file_devices: bool = False
    """Each open of a work queue is a device file<y> below its character device."""
    idxd_prs_disable: bool = False
    """Work queues have the attribute prs_disable."""
    idxd_driver_name: bool = False
    """Work queues have the attribute driver_name, and a driver refuses a queue whose driver_name is not its own."""
    idxd_iaa_cap: bool = False
    """IAX devices of version 2 have the attribute iaa_cap."""
    idxd_dsacaps: bool = False
    """DSA devices of version 3 have the attribute dsacaps."""
    idxd_iaa_defaults: bool = False
    """IAX devices are given a work queue for iaa_crypto when they are probed."""
    idxd_errors_bitmap: bool = False
    """`errors` is a 256-bit bitmap; before, four 64-bit numbers."""
    idxd_modalias: bool = False
    """Devices of the bus have MODALIAS=idxd:t0 in their uevents."""
    idxd_rdbufs_allowed_max: bool = False
    """A fresh group is allowed all read buffers; before, 0, which the driver programs as all of them."""
    idxd_ats_disable_hidden: bool = False
    """ats_disable is hidden without the capability and checks `configurable`; before, EOPNOTSUPP."""
    idxd_name_refuses_pasid: bool = True
    """`name` of a kernel work queue is refused when the system PASID is on."""
    idxd_wq_priv: bool = True
    """Kernel work queues and their descriptors are privileged."""
    idxd_sva_features: tuple[str, ...] = ("sva",)
    """IOMMU features that the driver enables before it says that user PASIDs work."""
    idxd_system_pasid: bool = False
    """Kernel DMA gets a PASID of the DMA domain (ENQCMDS works for shared kernel queues)."""
    idxd_batch_unsafe_v1_only: bool = False
    """The BATCH opcode is kept from users on devices of version 1 only; before, on all devices."""
    idxd_halt_flr: bool = False
    """A halt that needs a function-level reset is recovered by the driver."""
    idxd_misc_irq_loops: bool = True
    """The misc interrupt thread reads INTCAUSE again until it is zero."""
    idxd_swerr_ratelimited: bool = False
    """The four `err[%d]` lines of a software error are rate limited."""

    # vfio
    vfio_container_close: bool = True
    """An IOMMU driver is told when the container's file is closed."""
    vfio_set_container_badfd: bool = False
    """VFIO_GROUP_SET_CONTAINER of what is no container is EBADFD; before, EINVAL."""
    vfio_one_open: bool = False
    """The first descriptor of a device uses the container, and the module of its driver; before, each one."""
    vfio_unregister_first: bool = False
    """A device that is going has no name and no vfioN while its descriptors are waited for."""
    vfio_info_cap_aligned: bool = False
    """Capabilities of INFO ioctls begin at multiples of 8; before, back to back."""
    vfio_pre_copy: bool = False
    """Migration states PRE_COPY and PRE_COPY_P2P."""
    vfio_mig_data_size: bool = False
    """VFIO_DEVICE_FEATURE_MIG_DATA_SIZE."""
    vfio_fs: bool = False
    """Devices have inodes in a file system of their own, whose mount holds the module vfio while there is a device."""
    vfio_iova_bitmap_late: bool = False
    """A bitmap of written pages is touched where bits are set, and what fails is not told; before, EFAULT at once."""
    vfio_pin_needs_dma_unmap: bool = False
    """Pages are pinned for devices that have dma_unmap() only."""
    vfio_virqfd_module: bool = True
    """Interrupts by eventfd are a module of their own, vfio_virqfd."""

    # mtty
    mtty_migration: bool = False
    """A card's state can be migrated, INTX masks itself, and VFIO_DEVICE_SET_IRQS refuses what it cannot do."""


LINUX_6_1 = Profile(name="linux-6.1", release="6.1.192", version=(6, 1))

LINUX_6_12 = replace(
    LINUX_6_1,
    name="linux-6.12",
    release="6.12.117",
    version=(6, 12),
    probe_failure_dev_err=True,
    misc_minors_above_255=True,
    config=DEBIAN_CONFIG | {"IOMMUFD", "VFIO_DEVICE_CDEV"},
    iommufd=True,
    eventfd_write_exact=True,
    vfio_container_close=False,
    vfio_set_container_badfd=True,
    vfio_one_open=True,
    vfio_unregister_first=True,
    vfio_info_cap_aligned=True,
    vfio_pre_copy=True,
    vfio_mig_data_size=True,
    vfio_fs=True,
    vfio_iova_bitmap_late=True,
    vfio_pin_needs_dma_unmap=True,
    vfio_virqfd_module=False,
    kernfs_llseek_active=True,
    iommu_removal_message=False,
    mm_pin_unshares_zero_page=True,
    mtty_migration=True,
    vfio_type1_info_any_size=True,
    vfio_pci_exp_v2_size=0x34,
    vfio_pci_tells_hidden=False,
    vfio_pci_dvsec=True,
    vfio_pci_io64=True,
    vfio_pci_info_any_size=True,
    vfio_pci_trigger_only_minus_one=True,
    vfio_pci_dynamic_msix=True,
    vfio_pci_hot_reset_cdev=True,
    iommu_blocked_domain=True,
    iommu_default_domain_per_group=True,
    iommu_require_direct=True,
    iommu_dac_notice=True,
    iommu_snoop_needs_empty=True,
    iommu_sva_domain=True,
    vtd_supervisor_pasids=False,
    vtd_teardown_drains=True,
    vtd_prq_private_data=False,
    vtd_context_at_probe=True,
    vtd_iopf_enables_pri=True,
    pci_msi_chip_per_device=True,
    idxd_device_ids=IDXD_IDS_6_12,
    idxd_event_log=True,
    idxd_file_devices=True,
    idxd_prs_disable=True,
    idxd_driver_name=True,
    idxd_iaa_cap=True,
    idxd_iaa_defaults=True,
    idxd_errors_bitmap=True,
    idxd_modalias=True,
    idxd_rdbufs_allowed_max=True,
    idxd_ats_disable_hidden=True,
    idxd_name_refuses_pasid=False,
    idxd_wq_priv=False,
    idxd_sva_features=("iopf", "sva"),
    idxd_system_pasid=True,
    idxd_misc_irq_loops=False,
    idxd_swerr_ratelimited=True,
)

LINUX_7_2 = replace(
    LINUX_6_12,
    name="linux-7.2",
    release="7.2.0",
    version=(7, 2),
    epoll_wait_fd_first=True,
    vfio_type1_last_address=True,
    kstrtobool_enable=True,
    idxd_device_ids=IDXD_IDS_7_2,
    idxd_dsacaps=True,
    idxd_sva_features=(),
    vtd_caps_at_probe=True,
    idxd_batch_unsafe_v1_only=True,
    idxd_halt_flr=True,
)

PROFILES: dict[str, Profile] = {profile.name: profile for profile in (LINUX_6_1, LINUX_6_12, LINUX_7_2)}


def get(name: str) -> Profile:
    """
    The profile called *name*.

    Raises:
        ValueError: no such profile; the message names the known ones.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise ValueError(f"no profile {name!r}; known: {', '.join(PROFILES)}") from None


def configure(profile: Profile, options: str | Iterable[str]) -> Profile:
    """
    *profile* with *options* set: names with or without CONFIG_; those with a "-" before them are unset. A str is one.

    Raises:
        ValueError: an option that no part of the kernel knows; the message names the known ones.
    """
    names = set(profile.config)
    known = CONFIG if profile.iommufd else CONFIG - IOMMUFD_CONFIG
    for option in [options] if isinstance(options, str) else options:
        name = option.removeprefix("-").removeprefix("CONFIG_")
        if name not in known:
            raise ValueError(f"no configuration option CONFIG_{name}; known: {', '.join(sorted(known))}")
        (names.discard if option.startswith("-") else names.add)(name)
    if "IOMMUFD" not in names:  # the others depend on it
        names -= IOMMUFD_CONFIG
    return replace(profile, config=frozenset(names))
