"""The processors: CPUID, model-specific registers, XSAVE state and the instructions that submit work."""

from pykernel.cpu.core import Cpu, Cpus
from pykernel.cpu.trap import Fault, Flags, Trap

__all__ = ["Cpu", "Cpus", "Fault", "Flags", "Trap"]
