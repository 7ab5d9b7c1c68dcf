"""
The process surface: unmodified programs run against the emulated kernel.

Processes, from the outside in:

- **K**, the kernel: who called :func:`run`. One thread, one loop (``server.py``); serves FUSE (``fuse.py``).
- **launcher**: its child; new mount (and user) namespace, mounts FUSE, hands /dev/fuse to K (``launcher.py``).
- **init**: pid 1 of a new PID namespace; lays out /sys, /dev and /proc, starts the client, reaps (``launcher.py``);
  its threads answer what FUSE cannot say (``statfs.py``).
- **clients**: the program and its children.

Each dies with the one before it, the kernel of the host ends the PID namespace with its pid 1, and mounts end with
their namespace: whoever is killed, nothing is left. Closing /dev/fuse is watchdog enough: K has the only copy, its own
requests to its own mount stay pending and thus killable, so ``kill -9`` of K always ends them all.
"""

from pykernel.surfaces.process.run import RunError, run

__all__ = ["RunError", "run"]
