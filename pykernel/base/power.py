"""Runtime power management of a device, and its ``power`` directory (drivers/base/power/runtime.c, sysfs.c)."""

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
    """
    ``struct dev_pm_info``: who uses the device, and whether it sleeps; an attribute group, so no kobject in Linux.

    The device's ``runtime_suspend()`` and ``runtime_resume()`` do the work. A device without *enabled* never sleeps.
    """

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
        self.dev = dev
        self.async_suspend = dev.async_suspend
        self.runtime_auto = not dev.runtime_forbidden
        self.enabled = dev.runtime_pm
        self.usage_count = int(dev.runtime_forbidden)
        self.suspended = False
        self._changed_ns = 0
        self._suspended_ns = 0

    # ---- drivers/base/power/runtime.c

    def get_noresume(self) -> None:
        """C: ``void pm_runtime_get_noresume(struct device *)``."""
        self.usage_count += 1

    def put_noidle(self) -> None:
        """C: ``void pm_runtime_put_noidle(struct device *)``."""
        self.usage_count = max(0, self.usage_count - 1)

    def resume_and_get(self) -> None:
        """C: ``int pm_runtime_resume_and_get(struct device *)``. Raises what the device's resume does."""
        if self.suspended:
            self.resume()
        self.usage_count += 1

    def get_sync(self) -> None:
        """C: ``int pm_runtime_get_sync(struct device *)``. Raises what the device's resume does."""
        self.usage_count += 1
        self.resume()

    def put(self) -> None:
        """C: ``int pm_runtime_put(struct device *)``: the last one lets it sleep, soon."""
        self.put_noidle()
        if not self.usage_count and self.enabled and not self.suspended:
            self.kernel.sched.schedule_work(self._idle, "pm")

    def put_sync(self) -> None:
        """C: ``int pm_runtime_put_sync(struct device *)``: the last one lets it sleep."""
        self.put_noidle()
        self._idle()

    def resume(self) -> None:
        """C: ``int pm_runtime_resume(struct device *)``. Raises what the device's resume does."""
        if not self.suspended:
            return
        self._set(suspended=False)
        try:
            self.dev.runtime_resume()
        except OSError:
            self._set(suspended=True)
            raise

    def _idle(self) -> None:
        # rpm_idle(), rpm_suspend(): what the device refuses is no error of anybody's
        if self.usage_count or not self.enabled or self.suspended or not self.dev.registered:
            return
        try:
            self.dev.runtime_suspend()
        except OSError:
            return
        self._set(suspended=True)

    def _set(self, *, suspended: bool) -> None:
        now = self.kernel.sched.clock_ns()
        if self.suspended:
            self._suspended_ns += now - self._changed_ns
        self.suspended, self._changed_ns = suspended, now

    def allow(self) -> None:
        """C: ``void pm_runtime_allow(struct device *)``."""
        if not self.runtime_auto:
            self.runtime_auto = True
            self.put()

    def forbid(self) -> None:
        """C: ``void pm_runtime_forbid(struct device *)``."""
        if self.runtime_auto:
            self.runtime_auto = False
            self.get_sync()

    # ---- drivers/base/power/sysfs.c

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
        """runtime_usage_show(): pm_runtime_forbid() is one."""
        return f"{self.usage_count}\n"

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
        if not self.enabled:
            return "unsupported\n"
        return "suspended\n" if self.suspended else "active\n"

    def control_show(self) -> str:
        """control_show()."""
        return "auto\n" if self.runtime_auto else "on\n"

    def control_store(self, buf: str) -> None:
        """control_store(). Raises EINVAL."""
        if sysfs_streq(buf, "auto"):
            self.allow()
        elif sysfs_streq(buf, "on"):
            self.forbid()
        else:
            raise err(EINVAL)

    def runtime_suspended_time_show(self) -> str:
        """runtime_suspended_time_show(), milliseconds."""
        return f"{self._slept_ns() // 10**6}\n"

    def _slept_ns(self) -> int:
        return self._suspended_ns + (self.kernel.sched.clock_ns() - self._changed_ns if self.suspended else 0)

    def runtime_active_time_show(self) -> str:
        """runtime_active_time_show(), milliseconds."""
        return f"{(self.kernel.sched.clock_ns() - self._slept_ns()) // 10**6}\n" if self.enabled else "0\n"

    def autosuspend_delay_ms_show(self) -> str:
        """autosuspend_delay_ms_show(). Raises EIO: no autosuspend."""
        raise err(EIO)

    def autosuspend_delay_ms_store(self, buf: str) -> None:
        """autosuspend_delay_ms_store(). Raises EIO: no autosuspend."""
        raise err(EIO)
