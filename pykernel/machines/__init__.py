"""The machines that come with pykernel, one TOML file each."""
