"""What a driver author writes: import it as ``pykernel.drivers``."""

if __name__ != "pykernel.drivers":
    raise ImportError("import pykernel.drivers instead: this folder is reached through the pykernel package")
