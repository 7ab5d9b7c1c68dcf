"""PCI devices for user space (drivers/vfio/pci/)."""
