"""The uapi headers as Python: import it as ``pykernel.uapi``."""

if __name__ != "pykernel.uapi":
    raise ImportError("import pykernel.uapi instead: this folder is reached through the pykernel package")
