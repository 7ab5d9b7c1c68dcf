"""What the kernel's command line may say to the VT-d driver: ``intel_iommu=on,strict``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pykernel.log import INFO, NOTICE, WARNING

__all__ = ["intel_options", "intel_text"]

# drivers/iommu/intel/iommu.c:intel_iommu_setup(), in its order: what an option begins with, the level, the message
_OPTIONS: Final = (
    ("on", INFO, "IOMMU enabled"),
    ("off", INFO, "IOMMU disabled"),
    ("igfx_off", INFO, "Disable GFX device mapping"),
    ("intgpu_off", INFO, "Disable integrated GPU device mapping"),
    ("forcedac", WARNING, "intel_iommu=forcedac deprecated; use iommu.forcedac instead"),
    ("strict", WARNING, "intel_iommu=strict deprecated; use iommu.strict=1 instead"),
    ("sp_off", INFO, "Disable supported super page"),
    ("sm_on", INFO, "Enable scalable mode if hardware supports"),
    ("sm_off", INFO, "Scalable mode is disallowed"),
    ("tboot_noforce", INFO, "Intel-IOMMU: not forcing on after tboot. This could expose security risk for tboot"),
)


def intel_options(cmdline: str) -> Iterator[tuple[str, str]]:
    """
    The options in order: the name, "" if there is no such option, and the text from there to the end of the word.

    C: ``static int __init intel_iommu_setup(char *str)``
    """
    for word in cmdline.split():
        name, _, text = word.partition("=")
        while name == "intel_iommu" and text:
            yield next((option for option, _, _ in _OPTIONS if text.startswith(option)), ""), text
            text = text.partition(",")[2].lstrip(",")


def intel_text(option: str, text: str) -> tuple[int, str]:
    """Level and message for an option of :func:`intel_options`."""
    for name, level, message in _OPTIONS:
        if name == option:
            return level, f"DMAR: {message}"
    return NOTICE, f"DMAR: Unknown option - '{text}'"
