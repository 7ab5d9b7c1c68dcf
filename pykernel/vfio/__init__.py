"""VFIO: devices for user-space drivers (drivers/vfio)."""
