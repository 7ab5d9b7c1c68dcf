"""The power directory: recorded answers of section "power", and sysfs.c for devices with runtime PM."""

from __future__ import annotations

import pytest

from pykernel.base.core import Device

FILES = {
    "async": "disabled\n",
    "control": "auto\n",
    "runtime_active_kids": "0\n",
    "runtime_active_time": "0\n",
    "runtime_enabled": "disabled\n",
    "runtime_status": "unsupported\n",
    "runtime_suspended_time": "0\n",
    "runtime_usage": "0\n",
}


def test_files_of_a_device_without_runtime_pm(kernel, make):
    make("x.0")
    p = kernel.process()
    where = "/sys/devices/x.0/power"
    assert sorted(p.listdir(where)) == sorted([*FILES, "autosuspend_delay_ms"])
    assert {n: p.read_text(f"{where}/{n}") for n in FILES} == FILES
    with pytest.raises(OSError, match="Errno 5"):
        p.read_text(f"{where}/autosuspend_delay_ms")
    with pytest.raises(OSError, match="Errno 5"):
        p.write_text(f"{where}/autosuspend_delay_ms", "1")


class Managed(Device):
    runtime_pm = True
    runtime_forbidden = True
    async_suspend = True


def test_files_of_a_device_that_is_forbidden_to_suspend(kernel):
    Managed(kernel, "m").register()
    p = kernel.process()
    at = "/sys/devices/m/power/"

    def state():
        return [p.read_text(at + n) for n in ("async", "control", "runtime_enabled", "runtime_status", "runtime_usage")]

    assert state() == ["enabled\n", "on\n", "forbidden\n", "active\n", "1\n"]
    p.write_text(at + "control", "auto\n")
    assert state() == ["enabled\n", "auto\n", "enabled\n", "suspended\n", "0\n"]
    assert p.read_text(at + "runtime_active_time") == f"{kernel.sched.clock_ns() // 10**6}\n"


def test_forbidding_a_device_without_runtime_pm(kernel, make):
    make("x.0")
    p = kernel.process()
    p.write_text("/sys/devices/x.0/power/control", "on")
    assert p.read_text("/sys/devices/x.0/power/runtime_enabled") == "disabled & forbidden\n"


@pytest.mark.parametrize("text", ["enabled", "disabled", "enabled\n"])
def test_async_takes_two_words(kernel, make, text):
    make("x.0")
    kernel.process().write_text("/sys/devices/x.0/power/async", text)
    assert kernel.process().read_text("/sys/devices/x.0/power/async") == text.rstrip() + "\n"


@pytest.mark.parametrize("name", ["async", "control"])
@pytest.mark.parametrize("text", ["x", "enabledx", "ON", "auto\n\n", "1"])
def test_other_words_are_einval(kernel, make, name, text):
    make("x.0")
    with pytest.raises(OSError, match="Errno 22"):
        kernel.process().write_text(f"/sys/devices/x.0/power/{name}", text)
