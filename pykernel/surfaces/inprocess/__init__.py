"""
The patched surface: unmodified Python code of this process sees the emulated kernel.

Inside ``with kernel.patched():`` the usual calls - open, pathlib, os, os.path, glob, shutil, fcntl, mmap, select,
selectors, asyncio - reach the emulated kernel for /sys, for /dev and for those files of /proc that it has, and for
descriptors that came from there. Everything else goes to the real function, or to pyfakefs with ``real_files=False``.
Which names of /dev stay the host's is one table: :data:`~pykernel.surfaces.inprocess.places.HOST_NODES`.

Programs that it starts see the emulated kernel, too, where the host allows FUSE and namespaces (``world.py``); else
they see the host's files. ``ctypes.CDLL`` of libudev gives one that looks at the emulated kernel (``libudev.py``).

What cannot be seen from here:

* Code in C that makes system calls itself: ``io.FileIO(path)``, C extensions, every library but libudev. ``pykernel
  run`` serves whole processes.
* An emulated descriptor cannot be given to a child: that is refused with EOPNOTSUPP. A program that takes the place of
  this one (exec without fork) takes the kernel with it, and sees the host.
* Names taken before: ``from os import open`` in a module that was imported earlier keeps the real function, unless
  the module is named: ``kernel.patched(modules=[module])``.
* Real symbolic links into /sys or /dev, and ``..`` after real links.
* An emulated mapping has no buffer: ``ctypes.from_buffer(m)`` and ``memoryview(m)`` raise TypeError, slices work.

A fork copies the kernel with the process: the child has the same open files and a new address space, but what it stores
is not seen by the parent. os.set*id() changes the emulated ids only. Calls of other threads are served by the thread
that booted the kernel: at once if that is the main thread, else when it next enters the kernel.
"""

from __future__ import annotations

from pykernel.surfaces.inprocess.patched import Patched

__all__ = ["Patched"]
