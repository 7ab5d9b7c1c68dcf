"""
Virtual Data Streaming Accelerators: a work queue of an accelerator as a PCI device of its own (mediated device).

From the series "Add VFIO mediated device support and IMS support for the idxd driver", which was never merged. Loaded,
the module gives the bus ``dsa`` a driver ``mdev`` for work queues of type ``mdev``. An accelerator that has one is a
parent of mediated devices of two types: ``1dwq``, a dedicated queue for itself, and ``1swq``, a shared queue, which any
number of them and the processes of the host fill together.
"""

from pykernel.drivers.vdsa.module import VdsaModule

MODULE = VdsaModule

__all__ = ["MODULE", "VdsaModule"]
