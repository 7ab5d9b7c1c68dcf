"""What Linux answers on VFIO with a PCI Express card, QEMU's e1000e beside edu; run as vfio_probe.py is."""

from __future__ import annotations

import vfio_card_parts
import vfio_random_config_parts
from probing import main
from vfio_host import Host

PARTS = {**vfio_card_parts.PARTS, **vfio_random_config_parts.PARTS}

if __name__ == "__main__":
    main(PARTS, Host())
