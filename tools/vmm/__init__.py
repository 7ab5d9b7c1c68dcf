"""
A small virtual machine monitor, as user space writes it, and the kernel inside its machines.

``Vmm(host)`` is a process of the *host* kernel that talks to /dev/kvm, /dev/vfio and /dev/ioasid and nothing else;
``vmm.guest`` is another ``Kernel``, which runs only while a virtual processor of the VMM does.
"""
