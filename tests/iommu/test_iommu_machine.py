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
