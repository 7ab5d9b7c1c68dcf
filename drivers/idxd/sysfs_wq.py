"""
The attributes of work queues (drivers/dma/idxd/sysfs.c: idxd_wq_attributes[]).

The order of the checks differs from store to store, as in C: `size` parses first and asks for the device's state,
`mode` asks for the queue's state first and parses last, `block_on_fault` answers ENXIO where others answer EPERM.
"""

from __future__ import annotations

from errno import EINVAL, ENXIO, EOPNOTSUPP, EPERM

from pykernel.drivers.idxd.idxd import (
    DRIVER_NAME_SIZE,
    IDXD_ENQCMDS_MAX_RETRIES,
    IDXD_MAX_PRIORITY,
    WQ_NAME_SIZE,
    IdxdWq,
    WqState,
    WqType,
)
from pykernel.drivers.idxd.registers import IDXD_MAX_OPCAP_BITS, WQCFG_OCCUP_IDX, WQCFG_OCCUP_MASK
from pykernel.drivers.idxd.sysfs import (
    check_configurable,
    check_disabled,
    move_to_group,
    op_cap_text,
    parse_l,
    parse_ul,
)
from pykernel.errors import err
from pykernel.fs.sysfs import AttrGroup
from pykernel.lib.bitmap import bitmap_parse
from pykernel.lib.kstrtox import kstrtobool, kstrtou64, kstrtouint
from pykernel.lib.string import strim, sysfs_streq

TYPE_NAMES = {WqType.NONE: "none", WqType.KERNEL: "kernel", WqType.USER: "user", WqType.MDEV: "mdev"}
STATE_NAMES = {WqState.DISABLED: "disabled", WqState.ENABLED: "enabled", WqState.LOCKED: "locked"}
U64 = (1 << 64) - 1


def get_sysfs_u64(buf: str) -> int:
    """
    A number but 0, rounded up to a power of two.

    Above 2^63 the round-up overflows to 1 << 64, which x86 computes as 1. C: ``__get_sysfs_u64()``. Raises EINVAL.
    """
    try:
        val = kstrtou64(buf, 0)
    except OSError:
        raise err(EINVAL, f"not a number: {buf!r}") from None
    if val == 0:
        raise err(EINVAL, "zero")
    return 1 << ((val - 1).bit_length() & 63)


class WqConfDev(IdxdWq):
    """``wq<D>.<W>`` in sysfs: idxd_wq_attributes[]."""

    attrs = AttrGroup(
        "clients",
        "state",
        "group_id",
        "mode",
        "size",
        "priority",
        "block_on_fault",
        "threshold",
        "type",
        "name",
        "cdev_minor",
        "max_transfer_size",
        "max_batch_size",
        "ats_disable",
        "prs_disable",
        "occupancy",
        "enqcmds_retries",
        "op_config",
        "driver_name",
    )

    def attr_is_visible(self, name: str) -> bool:
        """What WQCAP and the kernel do not know is not there."""
        # drivers/dma/idxd/sysfs.c:idxd_wq_attr_visible()
        cap, profile = self.idxd.hw.wq_cap, self.kernel.profile
        if name == "op_config":
            return bool(cap.op_config)
        if name == "max_batch_size":
            return not self.idxd.is_iax
        if name == "prs_disable":
            return profile.idxd_prs_disable and bool(cap.wq_prs_support)
        if name == "ats_disable":
            return not profile.idxd_ats_disable_hidden or bool(cap.wq_ats_support)
        if name == "driver_name":
            return profile.idxd_driver_name
        return super().attr_is_visible(name)

    def _check_wq_disabled(self, code: int = EPERM) -> None:
        if self.state != WqState.DISABLED:
            raise err(code, "the work queue is enabled")

    def clients_show(self) -> str:
        """Open files, or users of the DMA channel."""
        return f"{self.client_count}\n"

    def state_show(self) -> str:
        """disabled or enabled; locked while a mediated device has a dedicated queue."""
        return f"{STATE_NAMES.get(self.state, 'unknown')}\n"

    def group_id_show(self) -> str:
        """The group, or -1."""
        return f"{self.group.id}\n" if self.group else "-1\n"

    def group_id_store(self, buf: str) -> None:
        """The device may be enabled, the queue not. Raises EINVAL, EPERM."""
        # drivers/dma/idxd/sysfs.c:wq_group_id_store()
        id = parse_l(buf)
        check_configurable(self.idxd)
        self._check_wq_disabled()
        if id > self.idxd.max_groups - 1 or id < -1:
            raise err(EINVAL, f"no group {id}")
        move_to_group(self, "num_wqs", id)

    def mode_show(self) -> str:
        """dedicated or shared."""
        return "dedicated\n" if self.dedicated else "shared\n"

    def mode_store(self, buf: str) -> None:
        """A dedicated queue has no threshold. Raises EPERM, EINVAL."""
        # drivers/dma/idxd/sysfs.c:wq_mode_store()
        check_configurable(self.idxd)
        self._check_wq_disabled()
        if sysfs_streq(buf, "dedicated"):
            self.dedicated = True
            self.threshold = 0
        elif sysfs_streq(buf, "shared"):
            self.dedicated = False
        else:
            raise err(EINVAL, f"no mode {buf!r}")

    def size_show(self) -> str:
        """Entries."""
        return f"{self.size}\n"

    def size_store(self, buf: str) -> None:
        """0 to what the other queues leave. Raises EINVAL, EPERM."""
        # drivers/dma/idxd/sysfs.c:wq_size_store()
        size = parse_ul(buf)
        check_configurable(self.idxd)
        check_disabled(self.idxd)
        # unsigned long arithmetic wraps: a size near 2^64 may pass
        if (size + sum(wq.size for wq in self.idxd.wqs) - self.size) & U64 > self.idxd.max_wq_size:
            raise err(EINVAL, f"more than {self.idxd.max_wq_size} entries in all queues")
        self.size = size & 0xFFFFFFFF

    def priority_show(self) -> str:
        """0 to 15."""
        return f"{self.priority}\n"

    def priority_store(self, buf: str) -> None:
        """0 is taken here, and refused by the hardware later. Raises EINVAL, EPERM."""
        # drivers/dma/idxd/sysfs.c:wq_priority_store()
        prio = parse_ul(buf)
        check_configurable(self.idxd)
        self._check_wq_disabled()
        if prio > IDXD_MAX_PRIORITY:
            raise err(EINVAL, f"no priority {prio}")
        self.priority = prio

    def block_on_fault_show(self) -> str:
        """0 or 1."""
        return f"{int(self.block_on_fault)}\n"

    def block_on_fault_store(self, buf: str) -> None:
        """Raises EOPNOTSUPP, EPERM, ENXIO, EINVAL."""
        # drivers/dma/idxd/sysfs.c:wq_block_on_fault_store()
        if not self.idxd.hw.gen_cap.block_on_fault:
            raise err(EOPNOTSUPP, "GENCAP bit 0 is clear")
        check_configurable(self.idxd)
        self._check_wq_disabled(ENXIO)
        bof = self._parse_bool(buf)
        if bof and self.prs_disable:
            raise err(EOPNOTSUPP, "prs_disable is set")
        self.block_on_fault = bof

    def _parse_bool(self, buf: str) -> bool:
        return kstrtobool(buf, e=self.kernel.profile.kstrtobool_enable)

    def threshold_show(self) -> str:
        """Entries that limited portals may fill."""
        return f"{self.threshold}\n"

    def threshold_store(self, buf: str) -> None:
        """1 to size, shared queues only. Raises EINVAL, EPERM, ENXIO."""
        # drivers/dma/idxd/sysfs.c:wq_threshold_store()
        try:
            val = kstrtouint(buf, 0)
        except OSError:
            raise err(EINVAL, f"not a number: {buf!r}") from None
        if val > self.size or val <= 0:
            raise err(EINVAL, f"threshold {val} of size {self.size}")
        check_configurable(self.idxd)
        self._check_wq_disabled(ENXIO)
        if self.dedicated:
            raise err(EINVAL, "a dedicated queue has no threshold")
        self.threshold = val

    def type_show(self) -> str:
        """none, kernel or user; mdev."""
        return f"{TYPE_NAMES[self.wq_type]}\n"

    def type_store(self, buf: str) -> None:
        """A change of type clears the name; "mdev" is one while its driver is there. Raises EPERM, EINVAL."""
        # drivers/dma/idxd/sysfs.c:wq_type_store()
        self._check_wq_disabled()
        wanted = [wq_type for wq_type, text in TYPE_NAMES.items() if sysfs_streq(buf, text)]
        if not wanted or (wanted[0] == WqType.MDEV and "mdev" not in self.idxd.module.bus.drivers):
            raise err(EINVAL, f"no type {buf!r}")
        if wanted[0] != self.wq_type:
            self.wq_name = ""
        self.wq_type = wanted[0]

    def name_show(self) -> str:
        """The name; an empty line without one."""
        return f"{self.wq_name}\n"

    def name_store(self, buf: str) -> None:
        """Surrounding white space goes. Raises EPERM, EINVAL, EOPNOTSUPP."""
        # drivers/dma/idxd/sysfs.c:wq_name_store()
        self._check_wq_disabled()
        if len(buf) > WQ_NAME_SIZE or len(buf) == 0:
            raise err(EINVAL, f"name of {len(buf)} bytes")
        if self.kernel.profile.idxd_name_refuses_pasid and self.wq_type == WqType.KERNEL and self.idxd.pasid_on:
            raise err(EOPNOTSUPP, "no PASID for dmaengine yet")
        self.wq_name = strim(buf)

    def cdev_minor_show(self) -> str:
        """Raises ENXIO without a character device."""
        with self.wq_lock:
            minor = None if self.idxd_cdev is None else self.idxd_cdev.minor
        if minor is None:
            raise err(ENXIO, "no character device")
        return f"{minor}\n"

    def max_transfer_size_show(self) -> str:
        """Bytes."""
        return f"{self.max_xfer_bytes}\n"

    def max_transfer_size_store(self, buf: str) -> None:
        """A power of two up to the device's. Raises EPERM, EINVAL."""
        # drivers/dma/idxd/sysfs.c:wq_max_transfer_size_store()
        check_configurable(self.idxd)
        self._check_wq_disabled()
        size = get_sysfs_u64(buf)
        if size > self.idxd.max_xfer_bytes:
            raise err(EINVAL, f"more than {self.idxd.max_xfer_bytes}")
        self.max_xfer_bytes = size

    def max_batch_size_show(self) -> str:
        """Descriptors."""
        return f"{self.max_batch_size}\n"

    def max_batch_size_store(self, buf: str) -> None:
        """A power of two up to the device's. Raises EPERM, EINVAL."""
        # drivers/dma/idxd/sysfs.c:wq_max_batch_size_store()
        check_configurable(self.idxd)
        self._check_wq_disabled()
        size = get_sysfs_u64(buf)
        if size > self.idxd.max_batch_size:
            raise err(EINVAL, f"more than {self.idxd.max_batch_size}")
        self.set_max_batch_size(size)

    def ats_disable_show(self) -> str:
        """0 or 1."""
        return f"{int(self.ats_disable)}\n"

    def ats_disable_store(self, buf: str) -> None:
        """Raises EPERM, EOPNOTSUPP, EINVAL."""
        # drivers/dma/idxd/sysfs.c:wq_ats_disable_store()
        self._check_wq_disabled()
        if self.kernel.profile.idxd_ats_disable_hidden:
            check_configurable(self.idxd)
        elif not self.idxd.hw.wq_cap.wq_ats_support:
            raise err(EOPNOTSUPP, "WQCAP bit 50 is clear")
        self.ats_disable = self._parse_bool(buf)

    def prs_disable_show(self) -> str:
        """0 or 1."""
        return f"{int(self.prs_disable)}\n"

    def prs_disable_store(self, buf: str) -> None:
        """Without page requests there is no blocking on faults. Raises EPERM, EINVAL."""
        # drivers/dma/idxd/sysfs.c:wq_prs_disable_store()
        self._check_wq_disabled()
        check_configurable(self.idxd)
        self.prs_disable = self._parse_bool(buf)
        if self.prs_disable:
            self.block_on_fault = False

    def occupancy_show(self) -> str:
        """The register, now. Raises EOPNOTSUPP."""
        # drivers/dma/idxd/sysfs.c:wq_occupancy_show()
        if not self.idxd.hw.wq_cap.occupancy:
            raise err(EOPNOTSUPP, "WQCAP bit 52 is clear")
        occup = self.idxd.reg_base.readl(self.idxd.wqcfg_at(self.id, WQCFG_OCCUP_IDX)) & WQCFG_OCCUP_MASK
        return f"{occup}\n"

    def enqcmds_retries_show(self) -> str:
        """Raises EOPNOTSUPP for a dedicated queue."""
        if self.dedicated:
            raise err(EOPNOTSUPP, "ENQCMDS is for shared queues")
        return f"{self.enqcmds_retries}\n"

    def enqcmds_retries_store(self, buf: str) -> None:
        """More than 64 means 64; the one store that gives the parser's own error. Raises EOPNOTSUPP, EINVAL, ERANGE."""
        # drivers/dma/idxd/sysfs.c:wq_enqcmds_retries_store()
        if self.dedicated:
            raise err(EOPNOTSUPP, "ENQCMDS is for shared queues")
        self.enqcmds_retries = min(kstrtouint(buf, 10), IDXD_ENQCMDS_MAX_RETRIES)

    def op_config_show(self) -> str:
        """The operations that the queue takes, as op_cap."""
        return op_cap_text(self.idxd, self.opcap_bmap or 0)

    def op_config_store(self, buf: str) -> None:
        """A bitmap inside the device's OPCAP, BATCH as it really is. Raises EPERM, EINVAL, EOVERFLOW."""
        # drivers/dma/idxd/sysfs.c:wq_op_config_store()
        self._check_wq_disabled()
        opmask = bitmap_parse(buf, IDXD_MAX_OPCAP_BITS)
        if opmask & ~self.idxd.opcap_bmap:
            raise err(EINVAL, "an operation that the device does not have")
        self.opcap_bmap = opmask

    def driver_name_show(self) -> str:
        """The driver that may bind; an empty line for none."""
        return f"{self.driver_name}\n"

    def driver_name_store(self, buf: str) -> None:
        """Surrounding white space goes. Raises EPERM, EINVAL."""
        # drivers/dma/idxd/sysfs.c:wq_driver_name_store()
        self._check_wq_disabled()
        if len(buf) > DRIVER_NAME_SIZE or len(buf) == 0:
            raise err(EINVAL, f"name of {len(buf)} bytes")
        self.driver_name = strim(buf)
