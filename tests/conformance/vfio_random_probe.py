"""What Linux answers on random sequences of VFIO calls: one line an answer; run as vfio_probe.py is."""

from __future__ import annotations

import vfio_random_parts
from probing import main
from vfio_host import Host

PARTS = {**vfio_random_parts.PARTS}

if __name__ == "__main__":
    main(PARTS, Host())
