"""The PCI bus: the wire that silicon plugs into, and the kernel core above it."""
