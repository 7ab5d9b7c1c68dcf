"""boot(): profiles, configuration, processor, modules of the machine."""

from __future__ import annotations

import pytest

from pykernel.machine import MachineError, parse
from pykernel.profile import PROFILES
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
    k = boot("dsa", config=("CONFIG_INTEL_IDXD_COMPAT", "-VFIO", "-NEVER_SET"))
    assert "INTEL_IDXD_COMPAT" in k.profile.config
    assert "VFIO" not in k.profile.config
    assert "VFIO" in PROFILES["linux-6.1"].config


def test_the_processor_is_the_machines():
    k = boot(parse("[cpu]\nenqcmd = false\n[iommu]\nsva = false"))
    assert [k.cpu.has(f) for f in ("movdir64b", "enqcmd", "pasid", "avx10")] == [True, False, False, False]


def test_a_module_that_cannot_load_is_in_dmesg():
    k = boot(parse("[modules]\nnone = ''\nidxd = 'nonsense=1'"))
    k.up()
    assert "modprobe: none: " in k.log.human()
    k.shutdown()


def test_unknown_names():
    with pytest.raises(MachineError):
        boot("toaster")
    with pytest.raises(ValueError, match=r"no profile 'linux-2.4'; known: linux-6.1"):
        boot("dsa", "linux-2.4")
    with pytest.raises(ValueError, match="clock must be"):
        boot("dsa", clock="cuckoo")
