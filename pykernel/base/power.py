"""The ``power`` directory of a device without runtime power management (drivers/base/power/sysfs.c)."""

from __future__ import annotations

from errno import EINVAL, EIO
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.sysfs import AttrGroup, Kobject
from pykernel.lib.string import sysfs_streq

if TYPE_CHECKING:
    from pykernel.base.core import Device

__all__ = ["Power"]


class Power(Kobject):
    """``struct dev_pm_info`` as files; an attribute group of the device, so it is no kobject of its own in Linux."""

    attrs = AttrGroup(
        "async",
        "runtime_usage",
        "runtime_active_kids",
        "runtime_enabled",
        "runtime_status",
        "control",
        "runtime_suspended_time",
        "runtime_active_time",
        "autosuspend_delay_ms",
    )

    def __init__(self, dev: Device) -> None:
        super().__init__(dev.kernel, "power", dev)
        self.async_suspend = dev.async_suspend
        self.runtime_auto = not dev.runtime_forbidden
        self.enabled = dev.runtime_pm

    def async_show(self) -> str:
        """async_show()."""
        return "enabled\n" if self.async_suspend else "disabled\n"

    def async_store(self, buf: str) -> None:
        """async_store(). Raises EINVAL."""
        if sysfs_streq(buf, "enabled"):
            self.async_suspend = True
        elif sysfs_streq(buf, "disabled"):
            self.async_suspend = False
        else:
            raise err(EINVAL)

    def runtime_usage_show(self) -> str:
        """runtime_usage_show(): one holder while pm_runtime_forbid()den."""
        return f"{int(not self.runtime_auto)}\n"

    def runtime_active_kids_show(self) -> str:
        """runtime_active_kids_show()."""
        return "0\n"

    def runtime_enabled_show(self) -> str:
        """runtime_enabled_show()."""
        if not self.enabled:
            return "disabled\n" if self.runtime_auto else "disabled & forbidden\n"
        return "enabled\n" if self.runtime_auto else "forbidden\n"

    def runtime_status_show(self) -> str:
        """runtime_status_show()."""
        return "active\n" if self.enabled else "unsupported\n"

    def control_show(self) -> str:
        """control_show()."""
        return "auto\n" if self.runtime_auto else "on\n"

    def control_store(self, buf: str) -> None:
        """control_store(). Raises EINVAL."""
        if sysfs_streq(buf, "auto"):
            self.runtime_auto = True
        elif sysfs_streq(buf, "on"):
            self.runtime_auto = False
        else:
            raise err(EINVAL)

    def runtime_suspended_time_show(self) -> str:
        """runtime_suspended_time_show(), milliseconds."""
        return "0\n"

    def runtime_active_time_show(self) -> str:
        """runtime_active_time_show(), milliseconds."""
        return f"{self.kernel.sched.clock_ns() // 10**6}\n" if self.enabled else "0\n"

    def autosuspend_delay_ms_show(self) -> str:
        """autosuspend_delay_ms_show(). Raises EIO: no autosuspend."""
        raise err(EIO)

    def autosuspend_delay_ms_store(self, buf: str) -> None:
        """autosuspend_delay_ms_store(). Raises EIO: no autosuspend."""
        raise err(EIO)
