"""
Drivers and silicon that do not come with pykernel: a class or a function in a Python file, or at an entry point.

A file that was edited is executed anew, so that a driver can be loaded again without a new program. When the program
has imported the file by itself, its module is taken, and both have the same classes.

What goes wrong is ValueError: one sentence that names the file, the line and the reason.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["entry_point", "entry_point_names", "is_path", "load_class", "load_file", "resolve", "why"]


def is_path(name: str) -> bool:
    """Whether *name* means a file rather than something that is known by its name."""
    return name.endswith(".py") or "/" in name


def resolve(name: str, beside: str) -> str:
    """*name* as it is meant in the file *beside*: a relative path starts in that file's directory."""
    return os.path.normpath(Path(beside).parent.absolute() / name) if is_path(name) else name


def load_file(path: str) -> ModuleType:
    """The Python module of the file at *path*. Raises ValueError."""
    file = Path(path).absolute()
    for module in tuple(sys.modules.values()):
        if getattr(module, "__file__", None) == str(file) and not hasattr(module, "__pykernel__"):
            return module
    try:
        source = file.read_bytes()
    except OSError as e:
        raise ValueError(f"{path}: {e.strerror}") from e
    from hashlib import blake2s  # it loads OpenSSL

    # structs are laid out, and annotations looked up, when they are used first: the module must stay where it is
    name = f"pykernel_file_{blake2s(bytes(file) + source, digest_size=8).hexdigest()}_{file.stem}"
    if name in sys.modules:
        return sys.modules[name]
    module = sys.modules[name] = ModuleType(name)
    module.__file__ = str(file)
    module.__dict__["__pykernel__"] = True  # kernel code: no client took what is taken here
    try:
        exec(compile(source, str(file), "exec", dont_inherit=True), module.__dict__)
    except Exception as e:
        del sys.modules[name]
        if b"\0" in source:  # the compiler does not say where
            raise ValueError(f"{path}:{source[: source.index(0)].count(10) + 1}: a null byte") from e
        raise ValueError(why(path, e)) from e
    return module


def why(path: str, e: Exception) -> str:
    """What *e* says, which code of the file at *path* raised: the line of the file, the error."""
    file = str(Path(path).absolute())
    if isinstance(e, SyntaxError) and e.filename == file:
        return f"{path}{f':{e.lineno}' if e.lineno else ''}: {e.msg}"
    lines = [f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename == file]
    return f"{path}{f':{lines[-1]}' if lines else ''}: {type(e).__name__}: {e}"


def load_class(path: str, base: type) -> type[Any]:
    """
    The only class of the file at *path* that is a *base*, made there and not private.

    Raises:
        ValueError: no such file, it cannot be executed, it has no such class or several.
    """
    module = load_file(path)
    found = [
        c
        for name, c in vars(module).items()
        if isinstance(c, type) and issubclass(c, base) and c.__module__ == module.__name__ and name[0] != "_"
    ]
    if len(found) != 1:
        names = ", ".join(c.__name__ for c in found) or "none"
        raise ValueError(f"{path}: it must have one class that is a {base.__name__}; it has {names}")
    return found[0]


def entry_point_names(group: str) -> list[str]:
    """What installed packages offer as *group*."""
    from importlib.metadata import entry_points

    return sorted(entry_points(group=group).names)


def entry_point(group: str, name: str) -> Callable[[], Any] | None:
    """
    What loads the object that an installed package offers as *name* of *group*; None: no package does.

    "-" and "_" are the same. The loader raises ValueError: what the package names is not there, or is broken.
    """
    from importlib.metadata import entry_points

    for found in entry_points(group=group):
        if found.name.replace("-", "_") == name.replace("-", "_"):
            return partial(_load, found)
    return None


def _load(found: EntryPoint) -> Any:
    try:
        return found.load()
    except Exception as e:
        raise ValueError(f"entry point {found.name} = {found.value}: {type(e).__name__}: {e}") from e
