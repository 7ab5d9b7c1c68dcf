"""Loading, binding and unbinding. Truth: drivers/dma/idxd and the recorded answers of Linux 6.1.192 and 7.2."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pykernel.base.module import Modules
from pykernel.start import boot

if TYPE_CHECKING:
    from conftest import Accel

Make = Callable[..., "Accel"]
PROFILES = ("linux-6.1", "linux-6.12", "linux-7.2")
NAMED = ("linux-6.12", "linux-7.2")

# ---- after loading


@pytest.mark.parametrize("profile", PROFILES)
def test_autoprobe_leaves_its_reason_in_cmd_status(profile: str, accel: Make) -> None:
    """A fresh device was tried once by the bus: no work queue is configured."""
    one = accel(profile)
    assert (one.status(), one.get("dsa0/state")) == ("0x800d0000", "disabled\n")


@pytest.mark.parametrize("profile", NAMED)
def test_iax_without_iaa_crypto_binds_itself(profile: str, accel: Make) -> None:
    """The defaults make the device bind at load; its queue waits for a driver called crypto."""
    one = accel(profile, "iax")
    assert (one.status(), one.get("iax0/state")) == ("0x80200000", "enabled\n")
    assert (one.get("wq0.0/name"), one.get("wq0.0/driver_name")) == ("iaa_crypto\n", "crypto\n")
    assert (one.get("wq0.0/size"), one.get("wq0.0/state")) == ("128\n", "disabled\n")


def test_iax_of_6_1_has_no_defaults(accel: Make) -> None:
    one = accel("linux-6.1", "iax")
    assert (one.status(), one.get("iax0/state")) == ("0x800d0000", "disabled\n")


def test_a_part_that_cannot_be_configured_binds_itself(accel: Make) -> None:
    one = accel("linux-7.2", preset="fixed")
    assert (one.status(), one.get("dsa0/state")) == ("0x80200000", "enabled\n")
    assert (one.get("wq0.0/mode"), one.get("group0.0/work_queues")) == ("dedicated\n", "wq0.0\n")


def test_without_movdir64b_the_module_does_not_load(accel: Make) -> None:
    one = accel(movdir64b=False)
    assert "idxd driver failed to load without MOVDIR64B." in one.messages()
    assert "idxd" not in one.kernel.sub(Modules).loaded


@pytest.mark.parametrize(("profile", "fresh"), [("linux-6.1", "0\n"), ("linux-6.12", "96\n"), ("linux-7.2", "96\n")])
def test_read_buffers_of_a_fresh_group(profile: str, fresh: str, accel: Make) -> None:
    assert accel(profile).get("group0.0/read_buffers_allowed") == fresh


@pytest.mark.parametrize(
    ("profile", "sva", "iommu", "args", "want"),
    [
        ("linux-6.1", True, True, "", "1\n"),
        ("linux-6.1", False, True, "", "0\n"),
        ("linux-6.12", True, False, "", "0\n"),
        ("linux-7.2", True, False, "", "1\n"),
        ("linux-7.2", True, True, "sva=0", "0\n"),
    ],
)
def test_pasid_enabled(profile: str, sva: bool, iommu: bool, args: str, want: str, accel: Make) -> None:
    """From 7.2 on only the module parameter decides; before, the IOMMU must have the features."""
    assert accel(profile, sva=sva, iommu=iommu, args=args).get("dsa0/pasid_enabled") == want


@pytest.mark.parametrize(
    ("profile", "preset", "batch"),
    [("linux-6.1", "dsa2", False), ("linux-7.2", "dsa2", True), ("linux-7.2", "spr", False)],
)
def test_batch_is_kept_from_users(profile: str, preset: str, batch: bool, accel: Make) -> None:
    """op_cap hides BATCH on unsafe parts: all of them before 7.2, version 1 only since."""
    words = accel(profile, preset=preset).get("dsa0/op_cap").split(",")
    assert bool(int(words[-1], 16) & 2) == batch


# ---- binding


def test_unbound_names_and_wrong_types_are_enodev(accel: Make) -> None:
    one = accel()
    assert [one.bind(n, "idxd") for n in ("junk", "wq0.0", "group0.0", "\n")] == ["ENODEV"] * 4
    assert [one.bind(n, "user") for n in ("dsa0", "group0.0", "engine0.0")] == ["ENODEV"] * 3
    assert [one.unbind("dsa0", "idxd"), one.unbind("wq0.0", "user"), one.bind("", "idxd")] == ["ENODEV", "ENODEV", 0]


def test_device_needs_a_grouped_engine(accel: Make) -> None:
    """No code for that: cmd_status stays."""
    one = accel()
    one.set("dsa0", cmd_status=0)
    one.set("wq0.0", group_id=0, mode="dedicated", size=16)
    assert (one.bind("dsa0", "idxd"), one.status()) == ("ENXIO", "0x0")


def test_hardware_refuses_a_group_without_engines(accel: Make) -> None:
    one = accel()
    one.set("wq0.0", group_id=0, mode="dedicated", size=16)
    one.set("engine0.0", group_id=1)
    assert (one.bind("dsa0", "idxd"), one.status()) == ("ENXIO", "0x15")


def test_size_defaults_to_16_when_it_is_programmed(accel: Make) -> None:
    one = accel()
    one.configure(size=0)
    assert one.bind("dsa0", "idxd") == 4
    assert one.get("wq0.0/size") == "16\n"


@pytest.mark.parametrize(("code", "answer"), [(0x10, 4), (0x11, "ENXIO"), (0x14, "ENXIO"), (0xFF, "ENXIO")])
def test_status_of_enable_device(code: int, answer: str | int, accel: Make) -> None:
    """Only "already enabled" counts as success; the rest shows in cmd_status."""
    one = accel()
    one.configure()
    one.silicon.fail_command(code)
    assert one.bind("dsa0", "idxd") == answer
    assert one.status() == ("0x0" if answer == 4 else f"{code:#x}")


def test_shared_queue_of_type_none_refuses_the_device(accel: Make) -> None:
    one = accel()
    one.configure(mode="shared", type="none")
    before = one.kernel.log.seq
    assert (one.bind("dsa0", "idxd"), one.status()) == ("ENXIO", "0x800c0000")
    assert one.messages(before) == ["idxd 0000:6a:01.0: No shared wq support but configured."]


def test_without_enqcmd_no_shared_queue(accel: Make) -> None:
    one = accel(enqcmd=False)
    one.configure(mode="shared", threshold=8)
    assert (one.bind("dsa0", "idxd"), one.status()) == ("ENXIO", "0x800c0000")


@pytest.mark.parametrize(
    ("change", "answer", "status"),
    [
        ({"group_id": -1}, "ENXIO", "0x80030000"),
        ({"name": "\n"}, "ENXIO", "0x80040000"),
        ({"mode": "shared"}, "ENXIO", "0x80060000"),
        ({"priority": 0}, "ENXIO", "0x23"),
    ],
)
@pytest.mark.parametrize("profile", PROFILES)
def test_queue_checks(profile: str, change: dict[str, str], answer: str, status: str, accel: Make) -> None:
    """Each missing piece has its code, and the type falls back to none."""
    one = accel(profile)
    one.configure()
    assert one.bind("dsa0", "idxd") == 4
    one.set("wq0.0", **change)
    assert (one.bind("wq0.0", "user"), one.status()) == (answer, status)
    assert one.get("wq0.0/type") == "none\n"


@pytest.mark.parametrize("profile", NAMED)
@pytest.mark.parametrize(
    ("name", "answer"), [("userx", 5), ("use", "ENODEV"), ("\n", "ENODEV"), ("dmaengine", "ENODEV")]
)
def test_driver_name_is_a_prefix_match(profile: str, name: str, answer: str | int, accel: Make) -> None:
    """A refusal keeps the type, unlike those after it."""
    one = accel(profile)
    one.configure(driver_name=name)
    assert one.bind("dsa0", "idxd") == 4
    assert one.bind("wq0.0", "user") == answer
    assert one.get("wq0.0/type") == "user\n"
    assert one.status() == ("0x0" if answer == 5 else "0x80200000")


@pytest.mark.parametrize(
    ("profile", "level", "text"),
    [
        ("linux-6.1", 4, "user: probe of wq0.0 failed with error -95"),
        ("linux-6.12", 3, "user wq0.0: probe with driver user failed with error -95"),
    ],
)
def test_user_queue_without_sva(profile: str, level: int, text: str, accel: Make) -> None:
    one = accel(profile, args="sva=0")
    one.configure()
    assert one.bind("dsa0", "idxd") == 4
    before = one.kernel.log.seq
    assert (one.bind("wq0.0", "user"), one.status()) == ("ENOTSUP", "0x80110000")
    assert [(r.level, r.text) for r in one.kernel.log.since(before)] == [(level, text)]


@pytest.mark.parametrize("profile", PROFILES)
def test_an_idle_grouped_queue_refuses_all(profile: str, accel: Make) -> None:
    """An unbound queue keeps its group and falls back to shared and none, which no kernel supports."""
    one = accel(profile)
    one.configure(1, name="second", size=8)
    one.up()
    one.unbind("wq0.0", "user")
    assert (one.bind("wq0.1", "user"), one.status()) == ("EINVAL", "0x800c0000")
    one.set("wq0.0", group_id=-1)
    assert (one.bind("wq0.1", "user"), one.status()) == (5, "0x0")


@pytest.mark.parametrize("profile", PROFILES)
def test_what_unbinding_keeps(profile: str, accel: Make) -> None:
    """Size and group (and driver_name) stay, the rest goes back to its default."""
    one = accel(profile)
    one.up()
    assert one.unbind("wq0.0", "user") == 5
    kept = ("size", "group_id", "mode", "priority", "type", "name", "state")
    assert [one.get(f"wq0.0/{a}") for a in kept] == ["16\n", "0\n", "shared\n", "0\n", "none\n", "\n", "disabled\n"]


def test_unbinding_the_device_takes_its_queues(accel: Make) -> None:
    one = accel()
    one.up()
    before = one.kernel.log.seq
    assert one.unbind("dsa0", "idxd") == 4
    assert one.messages(before) == ["idxd dsa0: Active wq 0 on disable wq0.0."]
    assert [one.get(f"wq0.0/{a}") for a in ("state", "size", "group_id", "cdev_minor")] == [
        "disabled\n",
        "0\n",
        "-1\n",
        "ENXIO",
    ]


def test_a_pasid_of_a_shared_queue_is_programmed_as_zero(accel: Make) -> None:
    """WQCFG[2]: shared, PASID enabled, PASID 0; the process's own comes with ENQCMD."""
    one = accel()
    one.up(mode="shared", threshold=8)
    cfg = one.silicon.mmio_read(0, 0x400 + 8, 4)
    assert (cfg & 1, cfg >> 8 & 0xFFFFF, cfg >> 28 & 1) == (0, 0, 1)


def test_sticky_bits_of_wqcfg_are_written_back(accel: Make) -> None:
    """The driver reads the table before it writes it: what the hardware kept stays."""
    one = accel()
    one.configure()
    one.silicon.mmio_write(0, 0x400 + 16, 4, 0x5)
    assert one.bind("dsa0", "idxd") == 4
    assert one.silicon.mmio_read(0, 0x400 + 16, 4) == 0x5


# ---- names


def test_one_counter_for_dsa_and_iax() -> None:
    """dsa0, iax1, dsa2 in the order of the bus; a device that goes frees its number."""
    kernel = boot("dsa")
    proc = kernel.process()
    names = [n for n in proc.listdir("/sys/bus/dsa/devices") if n[0] in "di"]
    assert sorted(names) == ["dsa0", "dsa2", "iax1"]
    proc.write_text("/sys/bus/pci/drivers/idxd/unbind", "0000:6a:01.0")
    proc.write_text("/sys/bus/pci/drivers/idxd/unbind", "0000:6f:01.0")
    proc.write_text("/sys/bus/pci/drivers/idxd/bind", "0000:6f:01.0")
    names = [n for n in proc.listdir("/sys/bus/dsa/devices") if n[0] in "di"]
    assert sorted(names) == ["dsa0", "iax1"]
    proc.exit()
    kernel.shutdown()


def test_minors_are_the_lowest_free(accel: Make) -> None:
    one = accel()
    for n in range(4):
        one.configure(n, name=f"w{n}")
    one.bind("dsa0", "idxd")
    for n in (2, 0, 1, 3):
        assert one.bind(f"wq0.{n}", "user") == 5
    assert [one.get(f"wq0.{n}/cdev_minor") for n in range(4)] == ["1\n", "2\n", "0\n", "3\n"]
    one.unbind("wq0.1", "user")
    one.set("wq0.1", mode="dedicated", priority=1, type="user", name="again")
    assert one.bind("wq0.1", "user") == 5
    assert one.get("wq0.1/cdev_minor") == "2\n"


def test_rmmod_and_modprobe(accel: Make) -> None:
    """A module that goes takes everything along; it may come again."""
    one = accel()
    one.up()
    modules = one.kernel.sub(Modules)
    modules.rmmod("idxd")
    assert one.proc.listdir("/sys/bus/dsa/devices") == []
    modules.rmmod("idxd_bus")
    modules.modprobe("idxd")
    assert one.status() == "0x800d0000"


# ---- compat


def test_compat_driver_is_off_by_default(accel: Make) -> None:
    one = accel()
    assert sorted(one.proc.listdir("/sys/bus/dsa/drivers")) == ["dmaengine", "idxd", "user"]


def test_compat_driver_picks_the_right_one(accel: Make) -> None:
    """CONFIG_INTEL_IDXD_COMPAT: one bind file for devices and queues; everything it does not know is ENODEV."""
    one = accel(config=("INTEL_IDXD_COMPAT",))
    one.configure()
    assert one.bind("junk", "dsa") == "ENODEV"
    assert one.bind("dsa0", "dsa") == 4
    assert one.bind("dsa0", "dsa") == "ENODEV"
    assert one.bind("wq0.0", "dsa") == 5
    assert one.proc.readlink("/sys/bus/dsa/devices/wq0.0/driver").endswith("/drivers/user")
    assert one.bind("wq0.1", "dsa") == "ENODEV"
    assert one.unbind("wq0.0", "dsa") == 5
    assert one.unbind("wq0.0", "dsa") == "ENODEV"
