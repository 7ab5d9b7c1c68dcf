"""What Linux answers on kernfs, sysfs, the driver core and PCI's sysfs files: one line an answer.

On a real kernel, as root, with ``edu`` on the PCI bus and the modules vfio_pci, vfio_iommu_type1 and pci_stub loaded::

    python3 driver_core_probe.py [PART...]

In-process, ``probing.run(PARTS, names, begin, say)`` asks the same of the emulated kernel. The parts leave the
device as they found it. "netlink", "messages" and "unprivileged" need a netlink socket, /dev/kmsg and seteuid.
"""

from __future__ import annotations

import driver_core_parts
import kernfs_parts
import pci_parts
from probing import main

PARTS = {**pci_parts.PARTS, **kernfs_parts.PARTS, **driver_core_parts.PARTS}

if __name__ == "__main__":
    main(PARTS)
