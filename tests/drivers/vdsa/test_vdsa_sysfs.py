"""Work queues of type mdev, types of mediated devices, making and removing them: /sys as the series shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

TYPES = "/sys/class/mdev_bus/0000:6a:01.0/mdev_supported_types"
WQ = "/sys/bus/dsa/devices/wq0.0"
DWQ, SWQ = "idxd-dsa-1dwq-v1", "idxd-dsa-1swq-v1"
UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"


def fails(call: Callable[[], object]) -> str:
    import errno

    try:
        call()
    except OSError as e:
        return errno.errorcode[e.errno or 0]
    return ""


# ---- the queue: a fourth type, a driver, the state "locked"


def test_mdev_is_a_type_of_queue_while_the_module_is_there(machine: Callable[..., Any]) -> None:
    host = machine()
    assert host.put(f"{WQ}/type", "mdev") == ""
    assert host.get("wq0.0/type") == "mdev"
    assert host.put(f"{WQ}/type", "none") == ""
    host.kernel.modules.rmmod("vdsa")
    assert host.put(f"{WQ}/type", "mdev") == "EINVAL"


def test_changing_the_type_to_mdev_clears_the_name(machine: Callable[..., Any]) -> None:
    host = machine()
    host.put(f"{WQ}/type", "user")
    host.put(f"{WQ}/name", "app")
    host.put(f"{WQ}/type", "mdev")
    assert host.get("wq0.0/name") == ""


def test_driver_mdev_takes_no_queue_of_another_type(machine: Callable[..., Any]) -> None:
    host = machine()
    host.configure(0, type="user")
    host.put("/sys/bus/dsa/devices/engine0.0/group_id", 0)
    host.bind("dsa0", "idxd")
    assert host.bind("wq0.0", "mdev") == "ENODEV"
    assert host.get("wq0.0/type") == "user"


def test_driver_mdev_wants_driver_name_where_there_is_one(machine: Callable[..., Any], profile: str) -> None:
    host = machine()
    host.configure(0)
    if profile != "linux-6.12":
        return
    host.put(f"{WQ}/driver_name", "user")
    host.put("/sys/bus/dsa/devices/engine0.0/group_id", 0)
    host.bind("dsa0", "idxd")
    assert (host.bind("wq0.0", "mdev"), host.get("dsa0/cmd_status")) == ("ENODEV", "0x80200000")


def test_driver_mdev_wants_an_enabled_device(machine: Callable[..., Any]) -> None:
    host = machine()
    host.configure(0)
    assert host.bind("wq0.0", "mdev") == "ENXIO"


def test_driver_mdev_wants_a_name_and_says_so_in_cmd_status(machine: Callable[..., Any]) -> None:
    host = machine()
    host.configure(0)
    host.put(f"{WQ}/type", "none")
    host.put(f"{WQ}/type", "mdev")
    host.put("/sys/bus/dsa/devices/engine0.0/group_id", 0)
    host.bind("dsa0", "idxd")
    assert (host.bind("wq0.0", "mdev"), host.get("dsa0/cmd_status")) == ("ENXIO", "0x80040000")


def test_without_pasids_there_are_no_queues_for_guests(machine: Callable[..., Any]) -> None:
    host = machine(sva=False)
    host.configure(0)
    host.put("/sys/bus/dsa/devices/engine0.0/group_id", 0)
    host.bind("dsa0", "idxd")
    assert (host.bind("wq0.0", "mdev"), host.get("dsa0/cmd_status")) == ("ENOTSUP", "0x80110000")


def test_dedicated_queue_is_locked_while_a_device_has_it(host: Any) -> None:
    assert host.get("wq0.0/state") == "enabled"
    uuid = host.create(DWQ)
    assert (host.get("wq0.0/state"), host.silicon.regs.wqcfg[0].status.state) == ("locked", 0)
    assert [host.put(f"{WQ}/{a}", v) for a, v in (("type", "user"), ("name", "x"), ("priority", 1))] == ["EPERM"] * 3
    host.proc.write_text(f"/sys/bus/mdev/devices/{uuid}/remove", "1")
    assert (host.get("wq0.0/state"), host.silicon.regs.wqcfg[0].status.state) == ("enabled", 1)


def test_shared_queue_stays_enabled_for_all_its_users(host: Any) -> None:
    host.create(SWQ)
    assert host.get("wq0.1/state") == "enabled"


def test_shared_queue_for_guests_has_a_character_device_for_the_hosts_processes(host: Any) -> None:
    assert host.proc.stat("/dev/dsa/wq0.1").st_rdev
    assert fails(lambda: host.proc.stat("/dev/dsa/wq0.0")) == "ENOENT"
    host.unbind("wq0.1", "mdev")
    assert fails(lambda: host.proc.stat("/dev/dsa/wq0.1")) == "ENOENT"


def test_unbound_queue_has_no_type(host: Any) -> None:
    assert host.unbind("wq0.0", "mdev") == ""
    assert (host.get("wq0.0/type"), host.get("wq0.0/state"), host.get("wq0.0/mode")) == ("none", "disabled", "shared")


# ---- types


def test_accelerator_with_such_a_queue_is_a_parent_with_two_types(machine: Callable[..., Any]) -> None:
    host = machine()
    assert fails(lambda: host.proc.listdir(TYPES)) == "ENOENT"
    host.up(0)
    assert sorted(host.proc.listdir(TYPES)) == [DWQ, SWQ]
    files = sorted(host.proc.listdir(f"{TYPES}/{DWQ}"))
    assert files == ["available_instances", "create", "device_api", "devices", "name"]
    assert host.proc.read_text(f"{TYPES}/{DWQ}/device_api") == "vfio-pci\n"
    assert host.proc.read_text(f"{TYPES}/{SWQ}/name") == "dsa-1swq-v1\n"
    host.unbind("wq0.0", "mdev")
    assert fails(lambda: host.proc.listdir(TYPES)) == "ENOENT"


def test_iax_has_types_of_its_own_name(profile: str) -> None:
    from pykernel.drivers.vdsa.module import VdsaType

    class Kind:
        class data:
            name_prefix = "iax"

    made = [VdsaType(Kind, dedicated=d).sysfs_name for d in (True, False)]  # type: ignore[arg-type]
    assert made == ["iax-1dwq-v1", "iax-1swq-v1"]


def test_available_instances_are_dedicated_queues_without_a_device(machine: Callable[..., Any]) -> None:
    host = machine()
    host.up(0, 2)
    assert host.available(DWQ) == 2
    host.create(DWQ)
    assert host.available(DWQ) == 1


def test_available_instances_of_1swq_are_the_shared_queues(host: Any) -> None:
    for _ in range(3):
        assert host.available(SWQ) == 1
        host.create(SWQ)


# ---- devices


def test_create_without_a_free_queue_is_enodev(host: Any) -> None:
    host.create(DWQ)
    assert fails(lambda: host.create(DWQ)) == "ENODEV"


def test_create_of_a_type_whose_queues_are_not_there_is_enodev(machine: Callable[..., Any]) -> None:
    host = machine()
    host.up(0)
    assert fails(lambda: host.create(SWQ)) == "ENODEV"


def test_create_of_a_uuid_that_is_there_is_eexist(host: Any) -> None:
    host.create(SWQ, UUID)
    assert fails(lambda: host.create(SWQ, UUID)) == "EEXIST"


def test_create_of_what_is_no_uuid_is_einval(host: Any) -> None:
    assert fails(lambda: host.create(SWQ, "dsa0")) == "EINVAL"


def test_create_without_ims_is_enospc(machine: Callable[..., Any]) -> None:
    host = machine(gencap=0x40815F010F)
    host.up(0)
    assert fails(lambda: host.create(DWQ)) == "ENOSPC"
    assert host.get("wq0.0/state") == "enabled"


def test_shared_queue_carries_many_devices(host: Any) -> None:
    made = {host.create(SWQ) for _ in range(20)}
    assert set(host.proc.listdir("/sys/bus/mdev/devices")) == made


@pytest.mark.parametrize("where", ["vdcm_idxd", "mdev_create_sysfs_files"])
def test_create_that_has_no_memory_leaves_the_queue_free(host: Any, where: str) -> None:
    with host.kernel.faults.fail("alloc", where):
        assert fails(lambda: host.create(DWQ)) == "ENOMEM"
    assert (host.get("wq0.0/state"), host.available(DWQ)) == ("enabled", 1)


def test_unbinding_a_queue_removes_its_devices(host: Any) -> None:
    kept, gone = host.create(SWQ), host.create(DWQ)
    host.unbind("wq0.0", "mdev")
    assert host.proc.listdir("/sys/bus/mdev/devices") == [kept]
    assert gone != kept


def test_unbinding_the_accelerator_removes_all(host: Any) -> None:
    host.create(SWQ)
    host.create(DWQ)
    assert host.unbind("dsa0", "idxd") == ""
    assert host.proc.listdir("/sys/bus/mdev/devices") == []


def test_module_can_go_and_come(host: Any) -> None:
    host.kernel.modules.rmmod("vdsa")
    assert host.get("wq0.0/type") == "none"
    assert fails(lambda: host.proc.listdir(TYPES)) == "ENOENT"
