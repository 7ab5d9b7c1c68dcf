"""boot(): profiles, configuration, processor, modules of the machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pykernel
from pykernel.machine import Machine, MachineError, parse
from pykernel.profile import CONFIG, PROFILES
from pykernel.start import boot


def booted(*args, **kw):
    k = boot(*args, **kw)
    p = k.process()
    return k, p


@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("machine", ["dsa", "full"])
def test_every_profile_boots_every_machine(profile, machine):
    k, p = booted(machine, profile)
    k.up()
    assert not k.oopses, k.log.human()
    assert p.read_text("/proc/version").startswith(f"Linux version {PROFILES[profile].release} ")
    p.exit()
    k.shutdown()


def test_config_sets_and_unsets():
    k = boot("dsa", config=("CONFIG_INTEL_IDXD_COMPAT", "-VFIO", "-CONFIG_VHOST"))
    assert "INTEL_IDXD_COMPAT" in k.profile.config
    assert not {"VFIO", "VHOST"} & k.profile.config
    assert "VFIO" in PROFILES["linux-6.1"].config


@pytest.mark.parametrize("option", ["NEVER_HEARD", "-CONFIG_NEVER_HEARD", "intel_idxd_svm", ""])
def test_an_option_that_nothing_knows_is_refused_and_the_known_are_named(option):
    with pytest.raises(
        ValueError, match=r"no configuration option CONFIG_\w*; known: .*INTEL_IDXD_COMPAT.*INTEL_IDXD_SVM"
    ):
        boot("dsa", config=(option,))


def test_every_option_that_the_code_asks_for_can_be_given():
    root = Path(pykernel.__file__).parents[1]
    asked = {
        name
        for folder in ("pykernel", "drivers", "tools")
        for file in (root / folder).rglob("*.py")
        for name in re.findall(r'"([A-Z0-9_]+)" (?:not )?in [\w.]*\bconfig\b', file.read_text("utf-8"))
    }
    assert {"INTEL_IDXD_SVM", "INTEL_IDXD_COMPAT"} <= asked <= CONFIG


def test_the_processor_is_the_machines():
    k = boot(parse("[cpu]\nenqcmd = false\n[iommu]\nsva = false"))
    assert [k.cpu.has(f) for f in ("movdir64b", "enqcmd", "pasid", "avx10")] == [True, False, False, False]


def test_a_module_that_cannot_load_is_in_dmesg():
    """A Machine made in Python may name modules that are added before the first look: boot() does not refuse."""
    k = boot(Machine("mine", modules={"none": "", "idxd": "nonsense=1"}))
    k.up()
    assert "modprobe: none: " in k.log.human()
    assert "idxd: unknown parameter 'nonsense' ignored" in k.log.human()
    k.shutdown()


def test_unknown_names():
    with pytest.raises(MachineError):
        boot("toaster")
    with pytest.raises(ValueError, match=r"no profile 'linux-2.4'; known: linux-6.1"):
        boot("dsa", "linux-2.4")
    with pytest.raises(ValueError, match="clock must be"):
        boot("dsa", clock="cuckoo")


def test_a_module_that_every_machine_has_takes_the_arguments_of_the_file() -> None:
    """pci_stub's ids claim the device, as on a kernel command line."""
    kernel = boot(parse('[[pci]]\nmodel = "edu"\naddress = "0000:00:02.0"\n[modules]\npci_stub = "ids=1234:11e8"\n'))

    assert kernel.process().readlink("/sys/bus/pci/devices/0000:00:02.0/driver").endswith("/pci-stub")
