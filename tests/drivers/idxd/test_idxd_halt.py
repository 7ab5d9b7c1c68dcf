"""Halts and interrupts of the device itself. Truth: drivers/dma/idxd/irq.c and recorded answers of Linux 7.2."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Accel

Make = Callable[..., "Accel"]
PROFILES = ("linux-6.1", "linux-6.12", "linux-7.2")
SOFTWARE, FLR, WARM = 0, 1, 2


def halt(one: Accel, reset_type: int) -> list[str]:
    """Halt a device that is up; what dmesg says of it."""
    one.up()
    before = one.kernel.log.seq
    one.silicon.halt(reset_type)
    one.kernel.sched.run_ready()
    return one.messages(before)


@pytest.mark.parametrize("profile", PROFILES)
def test_software_halt_is_not_recovered(profile: str, accel: Make) -> None:
    """No reset reaches a halted device; the configuration is gone, and the queue stays bound without state."""
    one = accel(profile)
    assert halt(one, SOFTWARE) == ["idxd 0000:6a:01.0: Device is HALTED!"]
    assert (one.status(), one.get("dsa0/state"), one.get("wq0.0/state")) == ("0x800d0000", "disabled\n", "disabled\n")
    assert (one.get("wq0.0/type"), one.get("wq0.0/group_id")) == ("user\n", "-1\n")
    assert one.bind("wq0.0", "user") == "EBUSY"


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ("linux-6.1", "idxd halted, need system reset."),
        ("linux-6.12", "idxd halted, need system reset."),
        ("linux-7.2", "idxd halted, need system reset"),
    ],
)
def test_halt_that_needs_more(profile: str, text: str, accel: Make) -> None:
    """The state reads disabled, never halted; a later bind leaves cmd_status alone."""
    one = accel(profile)
    assert halt(one, WARM) == [f"idxd 0000:6a:01.0: {text}"]
    assert (one.get("dsa0/state"), one.get("wq0.0/state")) == ("disabled\n", "disabled\n")


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12"])
def test_flr_is_asked_for_before_7_2(profile: str, accel: Make) -> None:
    one = accel(profile)
    assert halt(one, FLR) == ["idxd 0000:6a:01.0: idxd halted, need FLR."]
    assert one.get("dsa0/state") == "disabled\n"


def test_flr_is_done_by_7_2(accel: Make) -> None:
    """Configuration, device and queue come back."""
    one = accel("linux-7.2")
    halt(one, FLR)
    assert (one.get("dsa0/state"), one.get("wq0.0/state")) == ("enabled\n", "enabled\n")
    assert [one.get(f"wq0.0/{a}") for a in ("group_id", "size", "priority", "name")] == ["0\n", "16\n", "10\n", "app\n"]
    assert one.silicon.mmio_read(0, 0x400 + 24, 4) >> 30 == 1


def test_a_halted_device_is_not_bound(accel: Make) -> None:
    """The hardware says no; the driver's state machine says what to do next."""
    one = accel()
    halt(one, WARM)
    one.unbind("wq0.0", "user")
    one.unbind("dsa0", "idxd")
    one.silicon.set_gensts(0)
    one.configure()
    assert (one.bind("dsa0", "idxd"), one.get("dsa0/state")) == (4, "enabled\n")


def test_unknown_causes_are_warned_of_once(accel: Make) -> None:
    one = accel()
    one.up()
    before = one.kernel.log.seq
    for cause in (0x40, 0x40, 0x04):
        one.silicon.raise_cause(cause)
        one.kernel.sched.run_ready()
    assert one.messages(before) == ["idxd 0000:6a:01.0: Unexpected interrupt cause bits set: 0x40"]


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ("linux-6.1", "0x0000000080001201 0x0000000000000000 0x0000000000000000 0x0000000000000000\n"),
        ("linux-7.2", "00000000,00000000,00000000,00000000,00000000,00000000,00000000,80001201\n"),
    ],
)
def test_errors_shows_the_last_software_error(profile: str, text: str, accel: Make) -> None:
    one = accel(profile)
    one.silicon.raise_swerr([0x80001201, 0, 0, 0])
    one.kernel.sched.run_ready()
    assert one.get("dsa0/errors") == text


def test_occupancy_is_read_from_the_register(accel: Make) -> None:
    one = accel()
    one.up()
    one.silicon.set_occupancy(0, 7)
    assert one.get("wq0.0/occupancy") == "7\n"


def test_only_the_misc_interrupt_until_a_kernel_queue_is_bound(accel: Make) -> None:
    one = accel()

    def names() -> list[str]:
        rows = one.proc.read_text("/proc/interrupts").splitlines()
        return [row.split()[-1] for row in rows if "idxd" in row]

    seen = [names()]
    one.up("dmaengine", type="kernel", driver_name="dmaengine", name="dma")
    seen.append(names())
    assert seen == [["idxd-misc"], ["idxd-misc", "idxd-portal"]]
    assert len(one.proc.listdir("/sys/bus/pci/devices/0000:6a:01.0/msi_irqs")) == 9


@pytest.mark.parametrize(("profile", "lines"), [("linux-6.1", 16), ("linux-6.12", 10)])
def test_software_errors_are_rate_limited_later(profile: str, lines: int, accel: Make) -> None:
    """Four lines an error; newer kernels print ten lines in five seconds."""
    one = accel(profile)
    before = one.kernel.log.seq
    for _ in range(4):
        one.silicon.raise_swerr([0x80001201, 0, 0, 0])
        one.kernel.sched.run_ready()
    assert len(one.messages(before)) == lines
