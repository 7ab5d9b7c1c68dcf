"""IOMMU groups: what sysfs shows, which devices share one, who owns their DMA (drivers/iommu/iommu.c)."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest

from pykernel.base.core import Device
from pykernel.iommu.iommu import (
    IOMMU_RESV_DIRECT,
    IOMMU_RESV_MSI,
    ResvRegion,
    iommu_attach_group,
    iommu_detach_group,
    iommu_device_claim_dma_owner,
    iommu_device_release_dma_owner,
    iommu_domain_alloc,
    iommu_domain_free,
    iommu_get_domain_for_dev,
    iommu_group_add_device,
    iommu_group_alloc,
    iommu_group_claim_dma_owner,
    iommu_group_dma_owner_claimed,
    iommu_group_get,
    iommu_group_get_by_id,
    iommu_group_put,
    iommu_group_release_dma_owner,
    iommu_group_remove_device,
    iommu_group_replace_domain,
    iommu_group_set_name,
)
from pykernel.iommu.resv import insert_resv_region
from pykernel.pci.core import Pci
from pykernel.task import CAP_SYS_ADMIN, CAP_SYS_RAWIO

MSI = "0x00000000fee00000 0x00000000feefffff msi\n"
PROFILES = ("linux-6.1", "linux-6.12")


def test_files_links_and_the_message(world):
    """A group has `devices`, `reserved_regions`, `type`; links lead both ways; the device says where it went."""
    w = world()
    assert sorted(w.p.listdir(w.sysfs)) == ["devices", "reserved_regions", "type"]
    assert w.p.readlink("/sys/bus/pci/devices/0000:6a:01.0/iommu_group") == "../../../kernel/iommu_groups/0"
    assert w.p.readlink(f"{w.sysfs}/devices/0000:6a:01.0") == "../../../../devices/pci0000:6a/0000:6a:01.0"
    assert w.p.read_text(f"{w.sysfs}/reserved_regions") == MSI
    assert w.p.stat(f"{w.sysfs}/type").st_mode & 0o777 == 0o644
    assert w.p.stat(f"{w.sysfs}/reserved_regions").st_mode & 0o777 == 0o444
    assert w.log("iommu group") == ["pci 0000:6a:01.0: Adding to iommu group 0"]


@pytest.mark.parametrize(("profile", "told"), [("linux-6.1", True), ("linux-6.12", False)])
def test_a_group_goes_with_its_last_device_and_its_number_is_given_again(world, profile, told):
    w = world(profile=profile)
    w.p.write_text("/sys/bus/pci/devices/0000:6a:01.0/remove", "1")
    assert w.p.listdir("/sys/kernel/iommu_groups") == []
    assert bool(w.log("Removing from iommu group 0")) is told
    w.p.write_text("/sys/bus/pci/rescan", "1")
    assert w.p.listdir("/sys/kernel/iommu_groups") == ["0"]


def test_a_reference_keeps_an_empty_group(world):
    """iommu_group_get() holds the group; its default domain went with the last device."""
    w = world()
    group = iommu_group_get(w.dev)
    assert group is not None
    w.p.write_text("/sys/bus/pci/devices/0000:6a:01.0/remove", "1")
    assert w.p.read_text(f"{w.sysfs}/type") == "unknown\n"
    assert w.p.read_text(f"{w.sysfs}/reserved_regions") == ""
    assert iommu_group_get_by_id(w.kernel, 0) is group
    iommu_group_put(group)
    iommu_group_put(group)
    assert iommu_group_get_by_id(w.kernel, 0) is None
    assert w.p.listdir("/sys/kernel/iommu_groups") == []


def test_an_emulated_group(world, fails):
    """The group of a mediated device: no domain, nothing reserved, no translation; `name` only while it has one."""
    w = world()
    group = iommu_group_alloc(w.kernel)
    dev = Device(w.kernel, "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001")
    dev.register()
    iommu_group_add_device(group, dev)
    base = f"/sys/kernel/iommu_groups/{group.id}"
    assert (w.p.read_text(f"{base}/type"), w.p.read_text(f"{base}/reserved_regions")) == ("unknown\n", "")
    assert iommu_get_domain_for_dev(dev) is None
    iommu_group_set_name(group, "vfio-noiommu")
    assert sorted(w.p.listdir(base)) == ["devices", "name", "reserved_regions", "type"]
    assert w.p.read_text(f"{base}/name") == "vfio-noiommu\n"
    iommu_group_set_name(group, "")
    assert "name" not in w.p.listdir(base)
    assert fails(w.p.write_text, f"{base}/type", "DMA") == errno.EINVAL
    iommu_group_remove_device(dev)
    assert dev.iommu_group is None
    iommu_group_put(group)
    dev.unregister()
    assert w.p.listdir("/sys/kernel/iommu_groups") == ["0"]


def test_devices_of_one_name_in_one_group(world):
    """iommu_group_add_device(): a name that is taken gets an instance number."""
    w = world()
    a, b = Device(w.kernel, "twin"), Device(w.kernel, "twin", parent=w.dev)
    a.register()
    b.register()
    group = iommu_group_alloc(w.kernel)
    iommu_group_add_device(group, a)
    iommu_group_add_device(group, b)
    assert sorted(w.p.listdir(f"/sys/kernel/iommu_groups/{group.id}/devices")) == ["twin", "twin.0"]
    iommu_group_put(group)
    for dev in (b, a):
        iommu_group_remove_device(dev)
        dev.unregister()


# REQ_ACS_FLAGS: source validation, request and completion redirect, upstream forwarding
FULL_ACS = 0x1D


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        pytest.param({"multi": True}, {"multi": True}, True, id="functions-of-a-slot-without-acs"),
        pytest.param({"multi": True}, {}, True, id="only-the-first-says-so"),
        pytest.param({"multi": True, "acs": 0}, {"multi": True, "acs": 0}, False, id="acs-that-needs-no-control"),
        pytest.param({"multi": True, "acs": FULL_ACS}, {"multi": True, "acs": FULL_ACS}, False, id="full-acs"),
        pytest.param({"multi": True, "acs": FULL_ACS}, {"multi": True}, False, id="only-the-first-has-acs"),
        pytest.param({"express": None, "multi": True}, {"express": None, "multi": True}, True, id="conventional"),
        pytest.param({}, {}, False, id="not-multifunction"),
    ],
)
def test_functions_of_one_slot(world, card, first, second, shared):
    """pci_device_group(): functions that could reach each other without the IOMMU share a group."""
    w = world(cards={"0000:6a:01.0": card(**first), "0000:6a:01.1": card(**second)})
    assert (w.devs[0].iommu_group is w.devs[1].iommu_group) is shared
    assert sorted(w.p.listdir(f"{w.sysfs}/devices")) == ["0000:6a:01.0", "0000:6a:01.1"][: 1 + shared]


def test_other_slots_have_other_groups(world, card):
    w = world(cards={f"0000:6a:{n:02x}.0": card(multi=True) for n in (1, 2, 3)})
    assert [dev.iommu_group.id for dev in w.devs] == [0, 1, 2]


# ---- type


@pytest.mark.parametrize(
    ("cmdline", "kind"),
    [
        ("", "DMA-FQ"),
        ("iommu=pt", "identity"),
        ("iommu=pt iommu.passthrough=0", "DMA-FQ"),
        ("iommu.passthrough=1", "identity"),
        ("iommu=soft,pt", "identity"),
        ("iommu=pt iommu=nopt", "DMA-FQ"),
        ("iommu.strict=1", "DMA"),
        ("iommu.strict=0", "DMA-FQ"),
        ("iommu.strict=maybe", "DMA-FQ"),
        ("intel_iommu=on,strict", "DMA"),
    ],
)
def test_the_command_line_chooses_the_default_domain(world, cmdline, kind):
    w = world(cmdline=cmdline)
    assert w.p.read_text(f"{w.sysfs}/type") == f"{kind}\n"


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("kind", ["identity", "DMA", "DMA-FQ"])
def test_type_of_an_unbound_device_can_be_changed(world, profile, kind):
    w = world(profile=profile)
    w.p.write_text(f"{w.sysfs}/type", f"{kind}\n")
    assert w.p.read_text(f"{w.sysfs}/type") == f"{kind}\n"
    w.p.write_text(f"{w.sysfs}/type", "auto")
    assert w.p.read_text(f"{w.sysfs}/type") == "DMA-FQ\n"


@pytest.mark.parametrize(("profile", "code"), [("linux-6.1", errno.EBUSY), ("linux-6.12", errno.EPERM)])
def test_type_of_a_bound_device_cannot_be_changed_but_made_lazy(world, card_driver, profile, code, fails):
    """iommu_group_store_type(): DMA -> DMA-FQ needs no new domain."""
    w = world(profile=profile, cmdline="iommu.strict=1")
    driver = card_driver(w.kernel, "card")
    driver.register()
    assert fails(w.p.write_text, f"{w.sysfs}/type", "identity") == code
    assert w.log("iommu: ") == (["iommu: Device is still bound to driver"] if code == errno.EBUSY else [])
    w.p.write_text(f"{w.sysfs}/type", "DMA-FQ")
    assert w.p.read_text(f"{w.sysfs}/type") == "DMA-FQ\n"
    driver.unregister()


@pytest.mark.parametrize(("profile", "code"), [("linux-6.1", errno.EBUSY), ("linux-6.12", 0)])
def test_type_while_a_driver_of_user_space_is_bound(world, profile, code, fails):
    """6.1 asks for a driver, 6.12 for a user of the group: vfio-pci that is not open is none (both were asked)."""
    w = world(profile=profile)
    w.p.write_text("/sys/bus/pci/drivers/pci-stub/new_id", "1234 5678")
    assert fails(w.p.write_text, f"{w.sysfs}/type", "DMA") == code
    w.p.write_text("/sys/bus/pci/drivers/pci-stub/unbind", w.dev.name)


@pytest.mark.parametrize(
    ("profile", "code"), [pytest.param("linux-6.1", errno.EINVAL, id="6.1"), pytest.param("linux-6.12", 0, id="6.12")]
)
def test_type_of_a_group_of_two(world, card, profile, code, fails):
    w = world(profile=profile, cards={f"0000:6a:01.{n}": card(multi=True) for n in (0, 1)})
    assert fails(w.p.write_text, f"{w.sysfs}/type", "identity") == code
    said = ["iommu: Cannot change default domain: Group has more than one device"] if code else []
    assert w.log("Cannot change") == said


@pytest.mark.parametrize("text", ["", "dma", "DMA FQ", "blocked", "unmanaged"])
def test_type_refuses_other_words(world, text, fails):
    w = world()
    assert fails(w.p.write_text, f"{w.sysfs}/type", text + "\n") == errno.EINVAL


@pytest.mark.parametrize("cap", [CAP_SYS_ADMIN, CAP_SYS_RAWIO])
def test_type_needs_both_capabilities_before_all_else(world, cap, fails):
    w = world()
    w.p.task.cred = replace(w.p.task.cred, caps=w.p.task.cred.caps & ~(1 << cap))
    assert fails(w.p.write_text, f"{w.sysfs}/type", "nonsense") == errno.EACCES


@pytest.mark.parametrize(("profile", "code"), [("linux-6.1", errno.EBUSY), ("linux-6.12", errno.EPERM)])
def test_type_of_a_group_that_user_space_owns(world, profile, code, fails):
    w = world(profile=profile)
    iommu_group_claim_dma_owner(w.group, w)
    assert fails(w.p.write_text, f"{w.sysfs}/type", "DMA") == code
    iommu_group_release_dma_owner(w.group)


# ---- reserved regions


def test_reserved_regions_are_sorted_and_merged_by_type():
    """iommu_insert_resv_region(): those of the new one's type that touch or overlap become one."""
    regions: list[ResvRegion] = []
    for start, length, kind in (
        (0xFEE00000, 0x100000, IOMMU_RESV_MSI),
        (0x3000, 0x1000, IOMMU_RESV_DIRECT),
        (0x1000, 0x1000, IOMMU_RESV_DIRECT),
        (0x2000, 0x1800, IOMMU_RESV_DIRECT),
        (0xFEE00000, 0x100000, IOMMU_RESV_MSI),
    ):
        insert_resv_region(regions, ResvRegion(start, length, 3, kind))
    assert [(x.start, x.end, x.type) for x in regions] == [
        (0x1000, 0x3FFF, "direct"),
        (0xFEE00000, 0xFEEFFFFF, "msi"),
    ]


RMRR = "rmrr = ['0000:6a:01.0 7d000000-7d001fff']"


def test_a_region_of_the_firmware(world):
    """RMRR: shown as `direct`, mapped one to one in the default domain before the device is attached."""
    w = world(RMRR)
    assert w.p.read_text(f"{w.sysfs}/reserved_regions") == f"0x000000007d000000 0x000000007d001fff direct\n{MSI}"
    assert [w.group.default_domain.iova_to_phys(a) for a in (0x7CFFF000, 0x7D000000, 0x7D001FFF, 0x7D002000)] == [
        None,
        0x7D000000,
        0x7D001FFF,
        None,
    ]


@pytest.mark.parametrize("class_code", [0x030000, 0x0C0330], ids=["display", "usb"])
def test_a_region_that_nobody_needs_after_boot(world, card, class_code, fails):
    """device_rmrr_is_relaxable(): such a device may be given to user space."""
    w = world(RMRR, cards={"0000:6a:01.0": card(class_code=class_code)})
    assert "direct-relaxable" in w.p.read_text(f"{w.sysfs}/reserved_regions")
    domain = iommu_domain_alloc(w.dev)
    assert fails(iommu_attach_group, domain, w.group) == 0
    iommu_detach_group(domain, w.group)
    iommu_domain_free(domain)


def test_the_region_of_floppy_disks(world, card):
    """CONFIG_INTEL_IOMMU_FLOPPY_WA: the first 16 MiB of an ISA bridge; Linux 6.1 and 6.12 show it so on a Q35."""
    w = world(cards={"0000:00:1f.0": card(class_code=0x060100)})
    first = "0x0000000000000000 0x0000000000ffffff direct-relaxable\n"
    assert w.p.read_text(f"{w.sysfs}/reserved_regions") == first + MSI
    assert w.group.default_domain.iova_to_phys(0xFFF123) == 0xFFF123
    assert w.group.default_domain.table.lookup(512)[1] == 2 << 20, "mapped at once, by large pages"


@pytest.mark.parametrize(
    ("profile", "code", "text"),
    [
        pytest.param(
            "linux-6.1",
            errno.EPERM,
            "Device is ineligible for IOMMU domain attach due to platform RMRR requirement.  "
            "Contact your platform vendor.",
            id="6.1",
        ),
        pytest.param(
            "linux-6.12",
            errno.EINVAL,
            "Firmware has requested this device have a 1:1 IOMMU mapping, rejecting configuring the device without a "
            "1:1 mapping. Contact your platform vendor.",
            id="6.12",
        ),
    ],
)
def test_a_region_of_the_firmware_keeps_the_device_from_user_space(world, profile, code, text, fails):
    w = world(RMRR, profile=profile)
    assert fails(iommu_group_claim_dma_owner, w.group, w) == code
    assert w.log("platform") == [f"pci 0000:6a:01.0: {text}"]
    assert w.group.domain is w.group.default_domain
    assert not iommu_group_dma_owner_claimed(w.group)


# ---- who owns the DMA


def test_a_native_driver_and_user_space_exclude_each_other(world, card_driver, fails):
    """claim: EPERM while a driver is bound; bind: EBUSY while user space owns the group."""
    w = world()
    driver = card_driver(w.kernel, "card")
    driver.register()
    assert w.dev.driver is driver
    assert iommu_group_dma_owner_claimed(w.group)
    assert fails(iommu_group_claim_dma_owner, w.group, w) == errno.EPERM
    w.p.write_text("/sys/bus/pci/drivers/card/unbind", w.dev.name)
    assert fails(iommu_group_claim_dma_owner, w.group, w) == 0
    assert fails(iommu_group_claim_dma_owner, w.group, w) == errno.EPERM
    assert fails(w.p.write_text, "/sys/bus/pci/drivers/card/bind", w.dev.name) == errno.EBUSY
    assert (w.dev.driver, w.dev.holder) == (None, None)
    iommu_group_release_dma_owner(w.group)
    w.p.write_text("/sys/bus/pci/drivers/card/bind", w.dev.name)
    assert w.group.owner_cnt == 1
    driver.unregister()
    assert w.group.owner_cnt == 0


def test_a_failed_probe_gives_the_group_back(world, card_driver):
    w = world()

    class Failing(card_driver):  # type: ignore[valid-type, misc]
        def probe(self, dev: Any, /) -> None:
            raise OSError(errno.EIO, "no")

    driver = Failing(w.kernel, "card")
    driver.register()
    assert (w.dev.driver, w.group.owner_cnt) == (None, 0)
    driver.unregister()


def test_pci_stub_takes_what_user_space_owns(world):
    """driver_managed_dma: such a driver is no user of the DMA API, neither here nor for the group's other devices."""
    w = world()
    iommu_group_claim_dma_owner(w.group, w)
    w.p.write_text("/sys/bus/pci/drivers/pci-stub/new_id", "1234 5678")
    assert w.dev.driver.name == "pci-stub"
    assert w.group.owner_cnt == 1
    iommu_group_release_dma_owner(w.group)
    w.p.write_text("/sys/bus/pci/drivers/pci-stub/unbind", w.dev.name)
    assert w.group.owner_cnt == 0


def test_a_sibling_with_a_native_driver_spoils_the_group(world, card, card_driver, fails):
    w = world(cards={f"0000:6a:01.{n}": card(multi=True) for n in (0, 1)})
    driver = card_driver(w.kernel, "card")
    driver.register()
    w.p.write_text("/sys/bus/pci/drivers/card/unbind", "0000:6a:01.0")
    assert fails(iommu_group_claim_dma_owner, w.group, w) == errno.EPERM
    driver.unregister()
    assert fails(iommu_group_claim_dma_owner, w.group, w) == 0
    iommu_group_release_dma_owner(w.group)


def test_claims_by_device_are_counted(world, fails):
    """iommu_device_claim_dma_owner(): the same owner again, another one EPERM, none EINVAL."""
    w = world(profile="linux-6.12")
    one, other = object(), object()
    assert fails(iommu_device_claim_dma_owner, w.dev, None) == errno.EINVAL
    iommu_device_claim_dma_owner(w.dev, one)
    iommu_device_claim_dma_owner(w.dev, one)
    assert fails(iommu_device_claim_dma_owner, w.dev, other) == errno.EPERM
    iommu_device_release_dma_owner(w.dev)
    assert iommu_group_dma_owner_claimed(w.group)
    iommu_device_release_dma_owner(w.dev)
    assert not iommu_group_dma_owner_claimed(w.group)
    assert w.group.domain is w.group.default_domain


def test_no_group_no_owner(world, fails):
    w = world("enabled = false")
    assert w.dev.iommu_group is None
    assert fails(iommu_device_claim_dma_owner, w.dev, w) == errno.ENODEV
    assert fails(iommu_domain_alloc, w.dev) == errno.ENODEV
    assert w.p.listdir("/sys/kernel/iommu_groups") == []


# ---- domains of groups


@pytest.mark.parametrize("profile", PROFILES)
def test_attach_detach_replace(world, profile, fails):
    """Attach: EBUSY beside another domain; detach: back to the blocking or the default domain."""
    w = world(profile=profile)
    a, b = iommu_domain_alloc(w.dev), iommu_domain_alloc(w.dev)
    iommu_group_claim_dma_owner(w.group, w)
    blocking = w.group.domain
    assert blocking is w.group.blocking_domain
    iommu_attach_group(a, w.group)
    assert fails(iommu_attach_group, b, w.group) == errno.EBUSY
    assert fails(iommu_attach_group, a, w.group) == errno.EBUSY
    iommu_group_replace_domain(w.group, b)
    assert iommu_get_domain_for_dev(w.dev) is b
    iommu_detach_group(b, w.group)
    assert w.group.domain is blocking
    iommu_group_release_dma_owner(w.group)
    assert w.group.domain is w.group.default_domain
    for domain in (a, b):
        iommu_domain_free(domain)


def test_claim_of_a_group_with_a_domain_is_busy(world, fails):
    w = world()
    domain = iommu_domain_alloc(w.dev)
    iommu_attach_group(domain, w.group)
    assert fails(iommu_group_claim_dma_owner, w.group, w) == errno.EBUSY
    iommu_detach_group(domain, w.group)
    iommu_domain_free(domain)


def test_an_emulated_group_cannot_be_attached(world, fails):
    w = world()
    group = iommu_group_alloc(w.kernel)
    domain = iommu_domain_alloc(w.dev)
    assert fails(iommu_attach_group, domain, group) == errno.EINVAL
    iommu_group_put(group)
    iommu_domain_free(domain)


def test_all_devices_of_a_group_are_attached(world, card):
    w = world(cards={f"0000:6a:01.{n}": card(multi=True) for n in (0, 1)})
    domain = iommu_domain_alloc(w.dev)
    pa = w.phys.alloc_pages(1)
    domain.map(0x5000, pa, 4096, 3)
    iommu_attach_group(domain, w.group)
    w.devs[1].function.dma_write(0x5010, b"both")
    assert w.devs[0].function.dma_read(0x5010, 4) == b"both"
    iommu_detach_group(domain, w.group)
    iommu_domain_free(domain)
    w.phys.free_pages(pa)


def test_a_domain_that_nobody_freed_is_a_leak(world):
    w = world()
    domain = iommu_domain_alloc(w.dev)
    assert [line for line in w.kernel.leaks() if "IOMMU domain" in line]
    iommu_domain_free(domain)
    assert w.kernel.leaks() == []


def test_tables_of_page_tables_come_back(world):
    """Frames that the default domains of all devices took are free again when the devices are gone."""
    w = world()
    before = w.phys.used
    pci = w.kernel.sub(Pci)
    w.p.write_text("/sys/bus/pci/devices/0000:6a:01.0/remove", "1")
    gone = w.phys.used
    assert gone < before
    w.p.write_text("/sys/bus/pci/rescan", "1")
    assert w.phys.used == before
    tables = pci.devices["0000:6a:01.0"].iommu_group.default_domain.table.frames
    assert tables == before - gone - 2, "a PASID directory, and a table for requests without a PASID"
