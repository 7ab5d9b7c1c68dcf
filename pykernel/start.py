"""Boot: put a machine and a kernel together (init/main.c:start_kernel())."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from functools import partial

from pykernel import machine as machines
from pykernel import profile as profiles
from pykernel.base.module import Modules, reason
from pykernel.base.platform import base_init
from pykernel.cpu.common import parse_early_param
from pykernel.iommu.sva import Iommu
from pykernel.kernel import Kernel
from pykernel.log import ERR
from pykernel.mm.phys import PhysMem
from pykernel.pci.core import Pci
from pykernel.pci.irq import Irqs
from pykernel.pci.proc import ProcBusPci
from pykernel.sched import Clock

__all__ = ["boot"]

BUILT_IN = ("pci_stub",)  # loaded on every machine, with the arguments of its file if there are any


def boot(
    machine: str | os.PathLike[str] | machines.Machine = "full",
    profile: str = "linux-6.1",
    *,
    seed: int = 0,
    clock: str | Clock = "virtual",
    config: str | Iterable[str] = (),
    phys: PhysMem | None = None,
) -> Kernel:
    """
    Start a kernel.

    Args:
        machine: a built-in machine's name, the path of a TOML file or of a dump of umockdev-record, or a Machine.
        profile: which kernel: "linux-6.1", "linux-6.12", "linux-7.2".
        seed: of everything random; the same seed gives the same trace.
        clock: "virtual" jumps over idle time, "monotonic" is the host's; or a ``Clock``.
        config: CONFIG_ names to set ("INTEL_IDXD_COMPAT") or, with a "-" before them, to unset.
        phys: the memory, which a virtual machine's monitor has made; none: what the machine says.

    Raises:
        MachineError, ValueError: no such machine, profile or option, or what is wrong in the file.
    """
    spec = machine if isinstance(machine, machines.Machine) else machines.load(machine)
    if spec.recorded is not None and spec.recorded.root and (spec.pci or spec.modules):
        raise ValueError(f"machine {spec.name} has only what was recorded: it takes no silicon and no modules")
    row = profiles.configure(profiles.get(profile), config)
    kernel = Kernel(row, _cpu_flags(spec), seed=seed, clock=clock)
    kernel.machine = spec
    parse_early_param(kernel)
    if phys is not None:
        phys.kernel = kernel
        kernel.put(PhysMem, phys)
    kernel.sub(Modules)  # these have files in /proc, which are there before the first look at a device
    kernel.sub(Irqs)
    kernel.sub(ProcBusPci)
    if spec.recorded is None or not spec.recorded.root:
        kernel.initcalls += [lambda: base_init(kernel), lambda: _pci_init(kernel), lambda: _modules_init(kernel)]
    if spec.recorded is not None:
        kernel.initcalls.append(lambda: _recorded_init(kernel))
    return kernel


def _cpu_flags(spec: machines.Machine) -> dict[str, bool]:
    cpu = spec.cpu
    flags = {"movdiri": cpu.movdir64b, "movdir64b": cpu.movdir64b, "enqcmd": cpu.enqcmd, "vmx": cpu.vmx}
    return flags | {"pasid": spec.iommu.sva}


def _pci_init(kernel: Kernel) -> None:
    from pykernel.drivers.pcieport import PciePortDriver
    from pykernel.hw import make

    pci = kernel.sub(Pci)
    if kernel.machine.iommu.enabled and kernel.dmar is None:
        from pykernel.hw.vtd.unit import VtdUnit

        kernel.dmar = pci.remapping = VtdUnit(kernel)
    kernel.sub(Iommu)
    for row in kernel.machine.pci:
        pci.plug(row.address, make(row.model, row.options))
    for slot, functions in Counter(row.address[:-1] for row in kernel.machine.pci).items():
        if functions > 1 and f"{slot}0" in pci.slots:
            pci.slots[f"{slot}0"].function.config.make_multifunction()
    pci.rescan()
    PciePortDriver(kernel, "pcieport").register()


def _recorded_init(kernel: Kernel) -> None:
    from pykernel.recorded.boot import recorded_init

    recorded_init(kernel, kernel.machine.recorded)


def _modules_init(kernel: Kernel) -> None:
    modules = kernel.sub(Modules)
    for name in machines.DRIVERS:
        if machines.OPTIONS.get(name) in {None, *kernel.profile.config}:
            modules.add(name, partial(machines.module_class, name))
    wanted: dict[str, str] = dict.fromkeys(BUILT_IN, "") | kernel.machine.modules
    # as modprobe.d's, so that a module has its arguments whoever loads it first
    options, known = modules.options, [n for n in wanted if n in modules.known]
    modules.options = options | {n: f"{options.get(n, '')} {wanted[n]}" for n in known}
    for name, args in wanted.items():
        try:
            modules.modprobe(name, "" if name in known else args)
        except OSError as e:
            kernel.log.printk(ERR, f"modprobe: {name}: {reason(e)}")
        except ValueError as e:  # what it needs is no module
            kernel.log.printk(ERR, f"modprobe: {e}")
    modules.options = options
