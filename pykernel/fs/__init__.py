"""The virtual file system and what is mounted: kernfs, sysfs, devtmpfs, procfs."""
