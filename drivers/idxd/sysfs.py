"""
The attributes of devices, groups and engines (drivers/dma/idxd/sysfs.c; those of work queues are in :mod:`.sysfs_wq`).

A store's checks stand in the order of the C function: the first that fails decides. Every parse failure is EINVAL,
whatever the parser said, unless a comment says otherwise.
"""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP, EPERM

from pykernel.drivers.idxd.idxd import IdxdDevice, IdxdEngine, IdxdGroup, IdxdState, IdxdWq
from pykernel.drivers.idxd.registers import (
    DEVICE_VERSION_1,
    DEVICE_VERSION_2,
    DEVICE_VERSION_3,
    IDXD_EVL_SIZE_MAX,
    IDXD_EVL_SIZE_MIN,
)
from pykernel.errors import err
from pykernel.fs.sysfs import AttrGroup
from pykernel.lib.kstrtox import kstrtoint, kstrtol, kstrtoul
from pykernel.uapi.linux.idxd import DSA_OPCODE_BATCH

U64 = (1 << 64) - 1

READ_BUFFER_ATTRS = frozenset(
    {
        "max_tokens",
        "max_read_buffers",
        "token_limit",
        "read_buffer_limit",
        "use_token_limit",
        "use_read_buffer_limit",
        "tokens_allowed",
        "read_buffers_allowed",
        "tokens_reserved",
        "read_buffers_reserved",
    }
)


def parse_ul(buf: str) -> int:
    """``kstrtoul(buf, 10)`` with every failure as EINVAL."""
    try:
        return kstrtoul(buf, 10)
    except OSError:
        raise err(EINVAL, f"not a number: {buf!r}") from None


def parse_l(buf: str) -> int:
    """``kstrtol(buf, 10)`` with every failure as EINVAL."""
    try:
        return kstrtol(buf, 10)
    except OSError:
        raise err(EINVAL, f"not a number: {buf!r}") from None


def check_configurable(idxd: IdxdDevice) -> None:
    """Raises EPERM: the device's configuration is fixed (GENCAP bit 31 clear)."""
    if not idxd.configurable:
        raise err(EPERM, "the device is not configurable")


def check_disabled(idxd: IdxdDevice) -> None:
    """Raises EPERM: the device is enabled."""
    if idxd.state == IdxdState.ENABLED:
        raise err(EPERM, "the device is enabled")


def move_to_group(member: IdxdEngine | IdxdWq, counter: str, id: int) -> None:
    """Take an engine or a work queue out of its group and, unless *id* is -1, into group *id*."""
    old = member.group
    if old is not None:
        setattr(old, counter, getattr(old, counter) - 1)
    new = None if id == -1 else member.idxd.groups[id]
    if new is not None:
        setattr(new, counter, getattr(new, counter) + 1)
    member.group = new


def op_cap_text(idxd: IdxdDevice, bmap: int) -> str:
    """
    256 bits as eight words, the highest first; BATCH is not shown where users may not submit it.

    C: drivers/dma/idxd/sysfs.c:op_cap_show_common()
    """
    if batch_unsafe(idxd):
        bmap &= ~(1 << DSA_OPCODE_BATCH)
    return bitmap_text(bmap)


def batch_unsafe(idxd: IdxdDevice) -> bool:
    """INTEL-SA-01084: the kernel cannot check what a batch that a user submits points to."""
    if idxd.user_submission_safe:
        return False
    return idxd.hw.version <= DEVICE_VERSION_1 or not idxd.kernel.profile.idxd_batch_unsafe_v1_only


def bitmap_text(bmap: int) -> str:
    """``%*pb`` of 256 bits and a newline."""
    return ",".join(f"{bmap >> shift & 0xFFFFFFFF:08x}" for shift in range(224, -1, -32)) + "\n"


class EngineConfDev(IdxdEngine):
    """``engine<D>.<E>`` in sysfs: idxd_engine_attributes[]."""

    attrs = AttrGroup("group_id")

    def group_id_show(self) -> str:
        """The group, or -1."""
        return f"{self.group.id}\n" if self.group else "-1\n"

    def group_id_store(self, buf: str) -> None:
        """May be written while the device is enabled. Raises EINVAL, EPERM."""
        # drivers/dma/idxd/sysfs.c:engine_group_id_store()
        id = parse_l(buf)
        check_configurable(self.idxd)
        if id > self.idxd.max_groups - 1 or id < -1:
            raise err(EINVAL, f"no group {id}")
        move_to_group(self, "num_engines", id)


class GroupConfDev(IdxdGroup):
    """``group<D>.<G>`` in sysfs: idxd_group_attributes[]."""

    attrs = AttrGroup(
        "work_queues",
        "engines",
        "use_token_limit",
        "use_read_buffer_limit",
        "tokens_allowed",
        "read_buffers_allowed",
        "tokens_reserved",
        "read_buffers_reserved",
        "traffic_class_a",
        "traffic_class_b",
        "desc_progress_limit",
        "batch_progress_limit",
    )

    def attr_is_visible(self, name: str) -> bool:
        """No progress limits without the capability, no read buffers on IAX."""
        # drivers/dma/idxd/sysfs.c:idxd_group_attr_visible()
        if name in ("desc_progress_limit", "batch_progress_limit"):
            return bool(self.idxd.hw.group_cap.progress_limit)
        if name in READ_BUFFER_ATTRS:
            return not self.idxd.is_iax
        return super().attr_is_visible(name)

    def _deprecated(self, attr: str) -> None:
        self.idxd.warn_once(self, f"group.{attr}", f"attribute deprecated, see {attr}.")

    def work_queues_show(self) -> str:
        """The names of the members; nothing at all for an empty group."""
        names = [wq.name for wq in self.idxd.wqs if wq.group is self]
        return " ".join(names) + "\n" if names else ""

    def engines_show(self) -> str:
        """The names of the members; nothing at all for an empty group."""
        names = [engine.name for engine in self.idxd.engines if engine.group is self]
        return " ".join(names) + "\n" if names else ""

    def use_token_limit_show(self) -> str:
        """Old name of use_read_buffer_limit."""
        self._deprecated("use_read_buffer_limit")
        return self.use_read_buffer_limit_show()

    def use_token_limit_store(self, buf: str) -> None:
        """Old name of use_read_buffer_limit."""
        self._deprecated("use_read_buffer_limit")
        self.use_read_buffer_limit_store(buf)

    def use_read_buffer_limit_show(self) -> str:
        """0 or 1."""
        return f"{int(self.use_rdbuf_limit)}\n"

    def use_read_buffer_limit_store(self, buf: str) -> None:
        """Any number but 0 means 1. Raises EINVAL, EOPNOTSUPP, EPERM."""
        # drivers/dma/idxd/sysfs.c:group_use_read_buffer_limit_store()
        val = self._parse_rdbufs(buf)
        if self.idxd.rdbuf_limit == 0:
            raise err(EPERM, "the device has no read_buffer_limit")
        self.use_rdbuf_limit = val != 0

    def _parse_rdbufs(self, buf: str) -> int:
        """The checks that all read-buffer stores begin with."""
        val = parse_ul(buf)
        if self.idxd.is_iax:
            raise err(EOPNOTSUPP, "IAX has no read buffers")
        check_configurable(self.idxd)
        check_disabled(self.idxd)
        return val

    def tokens_allowed_show(self) -> str:
        """Old name of read_buffers_allowed."""
        self._deprecated("read_buffers_allowed")
        return self.read_buffers_allowed_show()

    def tokens_allowed_store(self, buf: str) -> None:
        """Old name of read_buffers_allowed."""
        self._deprecated("read_buffers_allowed")
        self.read_buffers_allowed_store(buf)

    def read_buffers_allowed_show(self) -> str:
        """How many read buffers the group may use."""
        return f"{self.rdbufs_allowed}\n"

    def read_buffers_allowed_store(self, buf: str) -> None:
        """At least 4 an engine, at most the reserved and the free ones. Raises EINVAL, EOPNOTSUPP, EPERM."""
        # drivers/dma/idxd/sysfs.c:group_read_buffers_allowed_store()
        val = self._parse_rdbufs(buf)
        if val < 4 * self.num_engines & U64 or val > self.rdbufs_reserved + self.idxd.nr_rdbufs:
            raise err(EINVAL, f"{val} read buffers for {self.num_engines} engines")
        self.rdbufs_allowed = val

    def tokens_reserved_show(self) -> str:
        """Old name of read_buffers_reserved."""
        self._deprecated("read_buffers_reserved")
        return self.read_buffers_reserved_show()

    def tokens_reserved_store(self, buf: str) -> None:
        """Old name of read_buffers_reserved."""
        self._deprecated("read_buffers_reserved")
        self.read_buffers_reserved_store(buf)

    def read_buffers_reserved_show(self) -> str:
        """How many read buffers are the group's own."""
        return f"{self.rdbufs_reserved}\n"

    def read_buffers_reserved_store(self, buf: str) -> None:
        """At most the free ones. Raises EINVAL, EOPNOTSUPP, EPERM."""
        # drivers/dma/idxd/sysfs.c:group_read_buffers_reserved_store()
        val = self._parse_rdbufs(buf)
        idxd = self.idxd
        if val > idxd.max_rdbufs or val > idxd.nr_rdbufs + self.rdbufs_reserved:
            raise err(EINVAL, f"{val} read buffers, free are {idxd.nr_rdbufs}")
        self.rdbufs_reserved = val
        idxd.nr_rdbufs = idxd.max_rdbufs - sum(group.rdbufs_reserved for group in idxd.groups)

    def _parse_traffic_class(self, buf: str) -> int:
        # drivers/dma/idxd/sysfs.c:group_traffic_class_a_store()
        val = parse_l(buf)
        check_configurable(self.idxd)
        check_disabled(self.idxd)
        if not self.idxd.tc_writable():
            raise err(EPERM, "traffic classes of this part are fixed (tc_override)")
        if not 0 <= val <= 7:
            raise err(EINVAL, f"no traffic class {val}")
        return val

    def traffic_class_a_show(self) -> str:
        """-1 until it is set or programmed."""
        return f"{self.tc_a}\n"

    def traffic_class_a_store(self, buf: str) -> None:
        """0 to 7. Raises EINVAL, EPERM."""
        self.tc_a = self._parse_traffic_class(buf)

    def traffic_class_b_show(self) -> str:
        """-1 until it is set or programmed."""
        return f"{self.tc_b}\n"

    def traffic_class_b_store(self, buf: str) -> None:
        """0 to 7. Raises EINVAL, EPERM."""
        self.tc_b = self._parse_traffic_class(buf)

    def _parse_progress_limit(self, buf: str) -> int:
        # drivers/dma/idxd/sysfs.c:group_desc_progress_limit_store()
        try:
            val = kstrtoint(buf, 10)
        except OSError:
            raise err(EINVAL, f"not a number: {buf!r}") from None
        if not 0 <= val <= 3:
            raise err(EINVAL, f"no progress limit {val}")
        return val

    def desc_progress_limit_show(self) -> str:
        """0 to 3."""
        return f"{self.desc_progress_limit}\n"

    def desc_progress_limit_store(self, buf: str) -> None:
        """May be written at any time. Raises EINVAL."""
        self.desc_progress_limit = self._parse_progress_limit(buf)

    def batch_progress_limit_show(self) -> str:
        """0 to 3."""
        return f"{self.batch_progress_limit}\n"

    def batch_progress_limit_store(self, buf: str) -> None:
        """May be written at any time. Raises EINVAL."""
        self.batch_progress_limit = self._parse_progress_limit(buf)


STATE_NAMES = {IdxdState.DISABLED: "disabled", IdxdState.ENABLED: "enabled", IdxdState.HALTED: "halted"}


class IdxdConfDev(IdxdDevice):
    """``dsa<D>`` and ``iax<D>`` in sysfs: idxd_device_attributes[]."""

    attrs = AttrGroup(
        "version",
        "max_groups",
        "max_work_queues",
        "max_work_queues_size",
        "max_engines",
        "numa_node",
        "max_batch_size",
        "max_transfer_size",
        "op_cap",
        "gen_cap",
        "configurable",
        "clients",
        "pasid_enabled",
        "state",
        "errors",
        "max_tokens",
        "max_read_buffers",
        "token_limit",
        "read_buffer_limit",
        "cdev_major",
        "cmd_status",
        "iaa_cap",
        "dsacaps",
        "event_log_size",
    )

    def attr_is_visible(self, name: str) -> bool:
        """What the part and the kernel do not know is not there."""
        # drivers/dma/idxd/sysfs.c:idxd_device_attr_visible()
        profile = self.kernel.profile
        if name == "max_batch_size" or name in READ_BUFFER_ATTRS:
            return not self.is_iax
        if name == "iaa_cap":
            return profile.idxd_iaa_cap and self.is_iax and self.hw.version >= DEVICE_VERSION_2
        if name == "dsacaps":
            return profile.idxd_dsacaps and not self.is_iax and self.hw.version >= DEVICE_VERSION_3
        if name == "event_log_size":
            return profile.idxd_event_log and self.hw.gen_cap.evl_support != 0
        return super().attr_is_visible(name)

    def version_show(self) -> str:
        """VERSION, 0x100 for 1.0."""
        return f"{self.hw.version:#x}\n"

    def max_groups_show(self) -> str:
        """GRPCAP."""
        return f"{self.max_groups}\n"

    def max_work_queues_show(self) -> str:
        """WQCAP."""
        return f"{self.max_wqs}\n"

    def max_work_queues_size_show(self) -> str:
        """WQCAP: entries of all queues together."""
        return f"{self.max_wq_size}\n"

    def max_engines_show(self) -> str:
        """ENGCAP."""
        return f"{self.max_engines}\n"

    def numa_node_show(self) -> str:
        """The PCI function's node, -1 for none."""
        return f"{self.pdev.numa_node}\n"

    def max_batch_size_show(self) -> str:
        """GENCAP, descriptors."""
        return f"{self.max_batch_size}\n"

    def max_transfer_size_show(self) -> str:
        """GENCAP, bytes."""
        return f"{self.max_xfer_bytes}\n"

    def op_cap_show(self) -> str:
        """OPCAP without what users may not submit."""
        return op_cap_text(self, self.opcap_bmap)

    def gen_cap_show(self) -> str:
        """GENCAP."""
        return f"{self.hw.gen_cap.bits:#x}\n"

    def configurable_show(self) -> str:
        """0 or 1."""
        return f"{int(self.configurable)}\n"

    def clients_show(self) -> str:
        """Sum over the work queues."""
        with self.dev_lock:
            return f"{sum(wq.client_count for wq in self.wqs)}\n"

    def pasid_enabled_show(self) -> str:
        """1 when users' PASIDs are on (SVA)."""
        return f"{int(self.user_pasid_on)}\n"

    def state_show(self) -> str:
        """The driver's idea of the state, not GENSTS."""
        return f"{STATE_NAMES.get(self.state, 'unknown')}\n"

    def errors_show(self) -> str:
        """The last software error."""
        # drivers/dma/idxd/sysfs.c:errors_show()
        with self.dev_lock:
            sw_err = list(self.sw_err)
        if self.kernel.profile.idxd_errors_bitmap:
            return bitmap_text(sum(q << 64 * i for i, q in enumerate(sw_err)))
        return " ".join(f"{q:#018x}" for q in sw_err) + "\n"

    def max_tokens_show(self) -> str:
        """Old name of max_read_buffers."""
        self.warn_once(self, "max_tokens_show", "attribute deprecated, see max_read_buffers.")
        return self.max_read_buffers_show()

    def max_read_buffers_show(self) -> str:
        """GRPCAP."""
        return f"{self.max_rdbufs}\n"

    def token_limit_show(self) -> str:
        """Old name of read_buffer_limit."""
        self.warn_once(self, "token_limit_show", "attribute deprecated, see read_buffer_limit.")
        return self.read_buffer_limit_show()

    def token_limit_store(self, buf: str) -> None:
        """Old name of read_buffer_limit."""
        self.warn_once(self, "token_limit_store", "attribute deprecated, see read_buffer_limit")
        self.read_buffer_limit_store(buf)

    def read_buffer_limit_show(self) -> str:
        """Read buffers for the groups that use the limit."""
        return f"{self.rdbuf_limit}\n"

    def read_buffer_limit_store(self, buf: str) -> None:
        """Raises EINVAL, EPERM."""
        # drivers/dma/idxd/sysfs.c:read_buffer_limit_store()
        val = parse_ul(buf)
        check_disabled(self)
        check_configurable(self)
        if not self.hw.group_cap.rdbuf_limit:
            raise err(EPERM, "no read buffer limit (GRPCAP bit 17)")
        if val > self.hw.group_cap.total_rdbufs:
            raise err(EINVAL, f"more than {self.hw.group_cap.total_rdbufs} read buffers")
        self.rdbuf_limit = val

    def cdev_major_show(self) -> str:
        """Major number of the character devices of this kind."""
        return f"{self.major}\n"

    def cmd_status_show(self) -> str:
        """``IDXD_SCMD_*``, or the last hardware command's error byte."""
        return f"{self.cmd_status:#x}\n"

    def cmd_status_store(self, buf: str) -> None:
        """Any text clears it."""
        self.cmd_status = 0

    def iaa_cap_show(self) -> str:
        """IAACAP. Raises EOPNOTSUPP."""
        if self.hw.version < DEVICE_VERSION_2:
            raise err(EOPNOTSUPP)
        return f"{self.hw.iaa_cap:#x}\n"

    def dsacaps_show(self) -> str:
        """DSACAP2, 1 and 0."""
        return ",".join(f"{cap:016x}" for cap in reversed(self.hw.dsacaps)) + "\n"

    def event_log_size_show(self) -> str:
        """Entries. Raises EOPNOTSUPP."""
        if self.evl is None:
            raise err(EOPNOTSUPP)
        return f"{self.evl.size}\n"

    def event_log_size_store(self, buf: str) -> None:
        """64 to 65535. Raises EOPNOTSUPP, EINVAL, EPERM."""
        # drivers/dma/idxd/sysfs.c:event_log_size_store()
        if self.evl is None:
            raise err(EOPNOTSUPP)
        val = parse_ul(buf)
        check_disabled(self)
        check_configurable(self)
        if not IDXD_EVL_SIZE_MIN <= val <= IDXD_EVL_SIZE_MAX or val * self.evl.entry_size > U64 - self.evl.dma:
            raise err(EINVAL, f"{val} entries")
        self.evl.size = val
