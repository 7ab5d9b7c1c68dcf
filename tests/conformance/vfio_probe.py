"""What Linux answers on VFIO: containers, groups, devices, interrupts, DMA, on QEMU's ``edu``: one line an answer.

On a real kernel, as root, with ``edu`` on the PCI bus and the modules vfio_pci, vfio_iommu_type1 and mdev loaded::

    python3 vfio_probe.py [PART...]

In-process, ``probing.run(PARTS, names, begin, say, raw_mmap, host)`` asks the same of the emulated kernel. The parts
leave the device as they found it.
"""

from __future__ import annotations

import vfio_container_parts
import vfio_device_parts
import vfio_dma_parts
import vfio_irq_parts
import vfio_life_parts
import vfio_tell_parts
from probing import main
from vfio_host import Host

PARTS = {
    **vfio_container_parts.PARTS,
    **vfio_device_parts.PARTS,
    **vfio_irq_parts.PARTS,
    **vfio_dma_parts.PARTS,
    **vfio_life_parts.PARTS,
    **vfio_tell_parts.PARTS,
}

if __name__ == "__main__":
    main(PARTS, Host())
