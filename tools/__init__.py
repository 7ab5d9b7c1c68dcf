"""The command line and its commands: import it as ``pykernel.tools``."""

if __name__ != "pykernel.tools":
    raise ImportError("import pykernel.tools instead: this folder is reached through the pykernel package")
