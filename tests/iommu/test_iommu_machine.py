"""The IOMMU of a machine's file and of the command line; /sys/class/iommu."""

from __future__ import annotations

import re

import pytest

from pykernel.iommu.iommu import iommu_attach_group, iommu_detach_group, iommu_domain_alloc, iommu_domain_free
from pykernel.machine import MachineError, parse

REGION = "rmrr: '{}' is no region like \"0000:6a:01.0 7d000000-7dffffff\""


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("address_width = 47", "x.toml:2: iommu.address_width: must be 39, 48 or 57"),
        ("largest_page = '4M'", 'x.toml:2: iommu.largest_page: must be "4K", "2M" or "1G"'),
        ("pasid_bits = 0", "x.toml:2: iommu.pasid_bits: must be 1 to 20"),
        ("pasid_bits = 21", "x.toml:2: iommu.pasid_bits: must be 1 to 20"),
        ("snoop_control = 1", "x.toml:2: iommu.snoop_control: must be true or false, not 1"),
        ("rmrr = 'text'", "x.toml:2: iommu.rmrr: must be an array of strings, not 'text'"),
        ("rmrr = {a = 1}", "x.toml:2: iommu.rmrr: must be an array of strings, not {'a': 1}"),
        ("rmrr = ['7d000000-7dffffff']", "x.toml:2: iommu." + REGION.format("7d000000-7dffffff")),
        (
            "rmrr = ['0000:6a:01.0 7d000800-7dffffff']",
            "x.toml:2: iommu." + REGION.format("0000:6a:01.0 7d000800-7dffffff"),
        ),
    ],
)
def test_an_error_names_file_line_and_key(text, error):
    with pytest.raises(MachineError, match=f"^{re.escape(error)}$"):
        parse(f"[iommu]\n{text}", "x.toml")


@pytest.mark.parametrize(
    ("cmdline", "pages"),
    [("intel_iommu=sp_off", 0x1000), ("intel_iommu=on", 0x40201000), ("intel_iommu=sm_off", 0x40201000)],
)
def test_options_of_the_driver(world, cmdline, pages):
    """intel_iommu_setup(): sp_off has no large pages, sm_off no scalable mode."""
    w = world(cmdline=cmdline)
    assert w.group.default_domain.pgsize_bitmap == pages
    assert w.dev.iommu.scalable is ("sm_off" not in cmdline)


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12"])
@pytest.mark.parametrize(
    ("cmdline", "said"),
    [
        ("intel_iommu=bar", [(5, "DMAR: Unknown option - 'bar'")]),
        ("intel_iommu=,on,,bar,sm_on", ["DMAR: Unknown option - ',on,,bar,sm_on'", "DMAR: IOMMU enabled",
                                        "DMAR: Unknown option - 'bar,sm_on'",
                                        "DMAR: Enable scalable mode if hardware supports"]),
        ("intel_iommu=sm_off,igfx_off", ["DMAR: Scalable mode is disallowed", "DMAR: Disable GFX device mapping"]),
        ("intel_iommu=strict", [(4, "DMAR: intel_iommu=strict deprecated; use iommu.strict=1 instead")]),
        ("intel_iommu=sp_offx", [(6, "DMAR: Disable supported super page")]),
        ("intel_iommu", []),
        ("iommu.passthrough=x", [(4, "Malformed early option 'iommu.passthrough'")]),
        ("iommu.passthrough", ["Malformed early option 'iommu.passthrough'"]),
        ("intel_iommu=bar iommu.strict=", ["Malformed early option 'iommu.strict'", "DMAR: Unknown option - 'bar'"]),
        ("iommu.forcedac=o", ["Malformed early option 'iommu.forcedac'"]),
        ("iommu.forcedac=1", [(6, "Forcing DAC for PCI devices")]),
        ("iommu", ["Malformed early option 'iommu'"]),
        ("iommu= iommu=pt iommu.strict=on quiet", []),
    ],
)  # fmt: skip
def test_what_the_log_says_of_the_command_line(world, cmdline, said, profile):
    """intel_iommu_setup(), which compares beginnings; do_early_param(), which complains of what a handler refuses."""
    w = world(cmdline=cmdline, profile=profile)
    records = [r for r in w.kernel.log.records if r.text in w.log("DMAR: ", "Malformed", "Forcing")]
    assert [(r.level, r.text) if isinstance(s, tuple) else r.text for r, s in zip(records, said, strict=True)] == said


@pytest.mark.parametrize(("profile", "strict"), [("linux-6.1", False), ("linux-6.12", False), ("linux-7.2", True)])
def test_enable_is_a_bool_of_newer_kernels(world, profile, strict):
    """lib/kstrtox.c:kstrtobool() of 7.2 knows e and d."""
    w = world(cmdline="iommu.strict=enable", profile=profile)
    assert w.p.read_text(f"{w.sysfs}/type") == ("DMA\n" if strict else "DMA-FQ\n")
    assert bool(w.log("Malformed")) is not strict


def test_the_last_word_counts(world):
    """dmar_disabled, intel_iommu_sm: each option overwrites what an earlier one said."""
    unit = world(cmdline="intel_iommu=off,sm_off intel_iommu=sm_on,on").dev.iommu
    assert (unit.enabled, unit.scalable) == (True, True)
    unit = world("sva = false", cmdline="intel_iommu=sm_on").dev.iommu
    assert (unit.enabled, unit.scalable) == (True, False), "the hardware has no scalable mode"


def test_a_region_of_a_device_that_is_not_there(world):
    """dmar_insert_dev_scope() looks at devices that are there: of others nothing is told, and nobody has the region."""
    w = world("rmrr = ['0000:00:09.0 7d000000-7d001fff']")
    assert w.log("DMAR", "RMRR", "scope", "00:09") == []
    assert w.p.read_text(f"{w.sysfs}/reserved_regions") == "0x00000000fee00000 0x00000000feefffff msi\n"


def test_off_is_no_iommu(world):
    w = world(cmdline="intel_iommu=off")
    assert (w.dev.iommu, w.dev.iommu_group) == (None, None)
    assert w.p.listdir("/sys/class/iommu") == []


@pytest.mark.parametrize(("iommu", "used"), [("", 3), ("sva = false", 2)], ids=["scalable", "legacy"])
def test_the_unit_in_sysfs(world, iommu, used):
    """iommu-sysfs.c, intel_iommu_attrs: links to its devices and back, capability registers, domains."""
    w = world(iommu)
    base = "/sys/class/iommu/dmar0"
    assert w.p.readlink(base) == "../../devices/virtual/iommu/dmar0"
    assert w.p.listdir(f"{base}/devices") == ["0000:6a:01.0"]
    assert w.p.readlink("/sys/bus/pci/devices/0000:6a:01.0/iommu") == "../../virtual/iommu/dmar0"
    names = ["address", "cap", "domains_supported", "domains_used", "ecap", "version"]
    assert sorted(w.p.listdir(f"{base}/intel-iommu")) == names
    cap, ecap = (int(w.p.read_text(f"{base}/intel-iommu/{name}"), 16) for name in ("cap", "ecap"))
    assert (cap >> 16 & 63) + 1 == 48, "MGAW"
    assert cap >> 34 & 3 == 3, "large pages of 2 MiB and 1 GiB"
    assert cap >> 8 & 31 == 1 << 2, "four levels"
    assert (ecap >> 7 & 1, bool(ecap >> 43 & 1)) == (1, not iommu), "snoop control, scalable mode"
    assert w.p.read_text(f"{base}/intel-iommu/domains_supported") == "65536\n"
    assert w.p.read_text(f"{base}/intel-iommu/domains_used") == f"{used}\n"
    domain = iommu_domain_alloc(w.dev)
    iommu_attach_group(domain, w.group)
    assert w.p.read_text(f"{base}/intel-iommu/domains_used") == f"{used}\n"
    iommu_detach_group(domain, w.group)
    iommu_domain_free(domain)
    w.p.write_text("/sys/bus/pci/devices/0000:6a:01.0/remove", "1")
    assert w.p.listdir(f"{base}/devices") == []
