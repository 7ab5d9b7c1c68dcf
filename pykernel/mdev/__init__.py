"""The bus of mediated devices (drivers/vfio/mdev)."""
