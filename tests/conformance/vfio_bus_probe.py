"""What Linux answers on VFIO where functions share a group or a bus: one line an answer.

On a real kernel, as root, with two functions of ``edu`` in one slot behind a root port and a third behind another::

    -device pcie-root-port,id=p,chassis=1,slot=1 -device edu,bus=p,addr=0.0,multifunction=on -device edu,bus=p,addr=0.1
    -device pcie-root-port,id=q,chassis=2,slot=2 -device edu,bus=q

and the modules vfio_pci, vfio_iommu_type1 and pci_stub loaded: ``python3 vfio_bus_probe.py [PART...]``.
"""

from __future__ import annotations

import vfio_bus_parts
import vfio_random_bus_parts
from probing import main
from vfio_host import Host

PARTS = {**vfio_bus_parts.PARTS, **vfio_random_bus_parts.PARTS}

if __name__ == "__main__":
    main(PARTS, Host())
