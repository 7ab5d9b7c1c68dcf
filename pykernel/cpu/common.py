"""What the kernel's command line may take from its view of the processors: ``clearcpuid=enqcmd``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pykernel.cpu.cpuid import FLAGS_7_0_ECX
from pykernel.log import INFO

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["parse_early_param"]

WORD: Final = 16  # arch/x86/include/asm/cpufeatures.h: which word of the capabilities leaf 7 ECX is
NUMBERS: Final = {WORD * 32 + bit: flag for flag, bit in FLAGS_7_0_ECX.items()}


def parse_early_param(kernel: Kernel) -> None:
    """
    Features, by name or number, that the kernel must not use; programs still see them and execute their instructions.

    C: ``static void __init cpu_parse_early_param(void)``; the last ``clearcpuid=`` of the line counts.
    """
    # arch/x86/kernel/cpu/common.c:cpu_parse_early_param()
    words = [w.removeprefix("clearcpuid=") for w in kernel.machine.cmdline.split() if w.startswith("clearcpuid=")]
    if not words or not words[-1]:
        return
    said = []
    for name in words[-1].split(","):
        flag = NUMBERS.get(int(name)) if name.isdecimal() else name
        if flag in FLAGS_7_0_ECX:
            kernel.cpu.cleared.add(flag)
            said.append(flag)
        elif not name.isdecimal():
            said.append(f"(unknown: {name})")
    kernel.log.printk(INFO, f"Clearing CPUID bits:{''.join(f' {text}' for text in said)}")
