"""
Modules: what modprobe and rmmod do, and /sys/module (kernel/module/main.c, sysfs.c; drivers/base/module.c).

A module is a subclass of :class:`Module` that :class:`Modules` knows by name; loading makes an instance for this
kernel. Out-of-tree modules come from a file (``modprobe("./mydrv.py")``) or from a package that is installed, which
names them in the entry point group ``pykernel.modules``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from errno import EBUSY, EEXIST, EIO, ENOENT, EPERM, EWOULDBLOCK
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pykernel.base.params import Param, Parameters, check_params, parse_args
from pykernel.base.uevent import Uevents, kobject_synth_uevent
from pykernel.errors import call_void, err, is_bug
from pykernel.fs.procfs import ProcFs
from pykernel.fs.sysfs import AttrGroup, Attribute, Kobject, Kset, SysFs
from pykernel.lib import outside
from pykernel.lib.ledger import Holder
from pykernel.task import CAP_SYS_MODULE

if TYPE_CHECKING:
    from pykernel.base.bus import Driver
    from pykernel.kernel import Kernel

__all__ = ["ENTRY_POINTS", "Module", "Modules", "Param", "out_of_tree", "reason"]

ENTRY_POINTS = "pykernel.modules"

NAME = re.compile(r"[A-Za-z0-9_]+")
STATES = {"live": "Live", "coming": "Loading", "going": "Unloading"}  # kernel/module/procfs.c:m_show()


class Module(Kobject):
    """
    ``struct module``. Subclasses name themselves, their parameters and what they need, and give init() and exit().
    """

    name_: ClassVar[str]
    params: ClassVar[tuple[Param, ...]] = ()
    depends: ClassVar[tuple[str, ...]] = ()
    softdep_post: ClassVar[tuple[str, ...]] = ()
    """``MODULE_SOFTDEP("post: ...")``: what modprobe loads after it; what goes wrong there is no error."""
    aliases: ClassVar[tuple[str, ...]] = ()
    size: ClassVar[int] = 16384

    version: ClassVar[str] = ""

    attrs = AttrGroup("uevent", "version", "srcversion", "coresize", "initsize", "taint", "initstate", "refcnt")

    def __init__(self, kernel: Kernel, args: str = "") -> None:
        super().__init__(kernel, self.name_, kernel.sub(SysFs).top["module"])
        self.built_params = tuple(p for p in self.params if self.has_param(kernel, p.name))
        self.param: dict[str, Any] = {p.name: p.default for p in self.built_params}
        self.state = "coming"
        self.holder = Holder(f"module {self.name_}")
        self.refcnt = 0
        self.users: list[Module] = []
        self.drivers: dict[str, Driver] = {}
        self.holders = Kset(kernel, "holders", self)
        self.drivers_dir = Kset(kernel, "drivers", self)
        self.param |= parse_args(kernel, self.name, args, self.built_params)

    @classmethod
    def needs(cls, kernel: Kernel) -> tuple[str, ...]:
        """The modules that it needs in this kernel: *depends*, unless what it is built from differs."""
        return cls.depends

    @classmethod
    def has_param(cls, kernel: Kernel, name: str) -> bool:
        """Whether the module of this kernel was built with parameter *name*."""
        return True

    # ---- what a module does

    def init(self) -> None:
        """``module_init``. Raises an errno: the module is not loaded."""

    def exit(self) -> None:
        """``module_exit``."""

    # ---- references: device bindings do not count, open files do

    def get_ref(self) -> None:
        """C: ``bool try_module_get(struct module *)``."""
        self.refcnt += 1

    def put_ref(self) -> None:
        """C: ``void module_put(struct module *)``."""
        self.refcnt -= 1

    def add_driver(self, drv: Driver) -> None:
        """drivers/base/module.c:module_add_driver()."""
        drv.create_link(self, "module")
        if self.drivers_dir.sd is None:
            self.drivers_dir.add()
        self.drivers_dir.create_link(drv, f"{drv.bus.name}:{drv.name}")
        self.drivers[drv.name] = drv

    def remove_driver(self, drv: Driver) -> None:
        """drivers/base/module.c:module_remove_driver()."""
        drv.remove_link("module")
        self.drivers_dir.remove_link(f"{drv.bus.name}:{drv.name}")
        self.drivers.pop(drv.name, None)

    def add_sections(self) -> None:
        """kernel/module/sysfs.c:add_sect_attrs(), add_notes_attrs(): addresses are hidden, as kptr_restrict does."""
        sections, notes = Kset(self.kernel, "sections", self), Kset(self.kernel, "notes", self)
        sections.add()
        notes.add()
        for name in (".text", ".init.text", ".data", ".bss"):
            sections.create_file(Attribute(name, lambda _: "0x0000000000000000\n", None, 0o400))
        notes.create_file(
            Attribute(".note.gnu.build-id", lambda _: b"\4\0\0\0\24\0\0\0\3\0\0\0GNU\0" + bytes(20), None, 0o444)
        )

    # ---- files

    def attr_is_visible(self, name: str) -> bool:
        """Versions are there with MODULE_VERSION."""
        return bool(self.version) or not name.endswith("version")

    def version_show(self) -> str:
        """MODULE_VERSION."""
        return f"{self.version}\n"

    def srcversion_show(self) -> str:
        """23 hexadecimal digits that stand for the source."""
        from hashlib import md5  # it loads OpenSSL

        return f"{md5(self.name.encode(), usedforsecurity=False).hexdigest()[:23].upper()}\n"

    def uevent_store(self, buf: str) -> None:
        """
        kernel/params.c:store_uevent().

        Raises EINVAL.
        """
        kobject_synth_uevent(self, buf, self.send_uevent)

    def send_uevent(self, action: str, env: dict[str, str] | None = None) -> None:
        """C: ``kobject_uevent_env(&mod->mkobj.kobj, ...)``."""
        self.kernel.sub(Uevents).send(self, action, {"SUBSYSTEM": "module", **(env or {})})

    def coresize_show(self) -> str:
        """Bytes of the module's core."""
        return f"{self.size}\n"

    def initsize_show(self) -> str:
        """Zero: init text is freed."""
        return "0\n"

    def taint_show(self) -> str:
        """No taint."""
        return "\n"

    def initstate_show(self) -> str:
        """live, coming or going."""
        return f"{self.state}\n"

    def refcnt_show(self) -> str:
        """How many users."""
        return f"{self.refcnt}\n"


def out_of_tree(name: str) -> Callable[[], type[Module]] | None:
    """
    What finds the class of the module at the path *name*, or that an installed package calls *name*; None: nobody does.

    Raises:
        ValueError: the file is not there, cannot be executed, or has no class that is a Module, or one that cannot
            be one; so says what is returned for a package.
    """
    if outside.is_path(name):
        cls = _checked(outside.load_class(name, Module), name)
        return lambda: cls
    load = outside.entry_point(ENTRY_POINTS, name)
    return None if load is None else lambda: _checked(load(), f"entry point {name}")


def _checked(cls: Any, where: str) -> type[Module]:
    """*cls*, whose author is somebody else. Raises ValueError: it is no Module, or what of it is wrong."""
    if not (isinstance(cls, type) and issubclass(cls, Module)):
        raise ValueError(f"{where}: {cls!r} is no class that is a Module")
    at = f"{where}: {cls.__name__}"
    name = getattr(cls, "name_", None)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f'{at}.name_ must be a string of letters, digits and "_", not {name!r}')
    if not isinstance(cls.depends, tuple | list) or not all(isinstance(d, str) and d for d in cls.depends):
        raise ValueError(f"{at}.depends must be a tuple of names, not {cls.depends!r}")
    if name in (d.replace("-", "_") for d in cls.depends):
        raise ValueError(f"{at}.depends: a module cannot need itself")
    check_params(f"{at}.params", cls.params)
    return cls


def reason(e: OSError) -> str:
    """What went wrong, and in which module that is needed."""
    needs = [note for note in getattr(e, "__notes__", ()) if note.startswith("needs module ")]
    return needs[0] if needs else e.strerror or str(e)


def _word(param: tuple[str, object]) -> str:
    """A parameter as a command line has it."""
    name, value = param
    return f"{name}={int(value)}" if isinstance(value, bool) else f'{name}="{value}"'


def _unknown(name: str, known: list[str]) -> str:
    """Why there is no module *name*."""
    first, _, args = name.partition(" ")
    if args and first.replace("-", "_") in known:
        return f'no module {name!r}: its arguments come second: modprobe("{first}", "{args}")'
    return f"no module {name}; known: {', '.join(known)}"


class Modules:
    """The modules of one kernel: those that are known and those that are loaded."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.known: dict[str, Callable[[], type[Module]]] = {}
        self.loaded: dict[str, Module] = {}
        self.options: dict[str, str] = {}
        self.foreign: dict[str, str] = {}  # name -> path or entry point that it came from
        self.coming: list[str] = []
        kernel.sub(ProcFs).create("modules", self.proc_modules)

    def add(self, name: str, find: Callable[[], type[Module]]) -> None:
        """Make a module known; *find* imports it when it is first loaded."""
        self.known[name.replace("-", "_")] = find

    def modprobe(self, name: str, args: str = "", /, **params: object) -> Module:
        """
        Load *name* and what it needs. An already loaded module is left as it is, as modprobe(8) does.

        ``modprobe("mtty", "ports=3")`` and ``modprobe("mtty", ports=3)`` are the same. *args* and *params* come after
        what ``options`` (modprobe.d's) has for the module, so they win. *name* may be the path of a Python file: the
        module that it has is loaded. The machine boots first.

        Raises:
            ValueError: the file is no module.
            ENOENT: no such module. EPERM: the caller has no CAP_SYS_MODULE. Else what its init() says.
        """
        self.kernel.check_alive()
        self.kernel.up()
        name = self.find(name)
        if name in self.loaded:
            return self.loaded[name]
        module = self.init_module(name, " ".join([self.options.get(name, ""), args, *map(_word, params.items())]))
        for after in module.softdep_post:
            if after in self.known and after not in self.coming:
                with suppress(OSError):
                    self.modprobe(after)
        return module

    def find(self, name: str) -> str:
        """
        Make an out-of-tree module known, if *name* is one.

        Returns:
            The module's own name. Raises ValueError: a file that is no module.
        """
        plain = name if outside.is_path(name) else name.replace("-", "_")
        if plain in self.loaded or (plain in self.known and plain not in self.foreign):
            return plain
        where = self.foreign.get(plain, plain)  # the file may have been edited since
        found = out_of_tree(where)
        if found is None:
            return plain
        plain = found().name_
        if outside.is_path(where):
            where = str(Path(where).absolute())
        if plain in self.known and plain not in self.foreign:
            raise ValueError(f"{name}: there is a module {plain} already: give it another name_")
        if plain not in self.loaded:
            self.add(plain, found)
            self.foreign[plain] = where
        return plain

    def init_module(self, name: str, args: str = "") -> Module:
        """C: ``long sys_init_module(...)``. Raises EPERM, EEXIST, ENOENT, EINVAL, and what init() says."""
        self._may()
        if name in self.loaded:
            raise err(EEXIST, f"module {name} is loaded")
        if name not in self.known:
            raise err(ENOENT, _unknown(name, self.names()))
        cls = self.known[name]()
        needs = self._needs(name, cls)
        try:
            module = self._load(name, cls, needs, args)
        except BaseException as e:
            if not is_bug(e):
                raise
            self.kernel.oops(e)
            raise err(EIO, f"oops: {e}") from e
        module.state = "live"
        module.send_uevent("add")
        return module

    def names(self) -> list[str]:
        """The modules that there are: those that are known, and what installed packages have."""
        packages = (name.replace("-", "_") for name in outside.entry_point_names(ENTRY_POINTS))
        return sorted({*self.known, *packages})

    def _needs(self, name: str, cls: type[Module]) -> list[Module]:
        """What *cls* needs, loaded. Raises ValueError: *cls* itself is needed for that."""
        if name in self.coming:
            raise ValueError(f"module {name} needs itself: {' -> '.join([*self.coming, name])}")
        self.coming.append(name)
        try:
            return [self._need(d) for d in cls.needs(self.kernel)]
        finally:
            self.coming.pop()

    def _need(self, name: str) -> Module:
        try:
            return self.modprobe(name)
        except OSError as e:
            raise err(e.errno or EIO, f"needs module {name}: {reason(e)}") from e

    def _load(self, name: str, cls: type[Module], needs: list[Module], args: str) -> Module:
        module = cls(self.kernel, args)
        module.add()
        module.holders.add()
        module.add_sections()
        if any(p.mode for p in module.built_params):
            parameters = Parameters(module)
            parameters.add()
            parameters.fill()
        self.loaded[name] = module
        for need in needs:
            need.get_ref()
            need.users.insert(0, module)
            need.holders.create_link(module, module.name)
        try:
            with self.kernel.ledger.held(module.holder):
                call_void(module.init)
        except BaseException:
            self._forget(module)
            raise
        return module

    def _may(self) -> None:
        self.kernel.check_alive()
        if not self.kernel.current.cred.capable(CAP_SYS_MODULE):
            raise err(EPERM)

    def rmmod(self, name: str) -> None:
        """
        C: ``long sys_delete_module(const char *, unsigned int)`` with O_NONBLOCK.

        Raises:
            EPERM: the caller has no CAP_SYS_MODULE.
            ENOENT: not loaded.
            EWOULDBLOCK: others depend on it, or it is in use.
            EBUSY: it is coming or going.
            EIO: a bug in its exit(), which returns nothing and raises nothing; it is gone as far as can be.
        """
        self._may()
        self.kernel.up()
        module = self.loaded.get(name.replace("-", "_"))
        if module is None:
            raise err(ENOENT, f"no module {name} is loaded; loaded: {', '.join(sorted(self.loaded))}")
        if module.users:
            raise err(EWOULDBLOCK, f"{', '.join(m.name for m in module.users)} need module {name}")
        if module.state != "live":
            raise err(EBUSY)
        if module.refcnt:
            raise err(EWOULDBLOCK, f"module {name} is in use")
        module.state = "going"
        try:
            call_void(module.exit)
        except BaseException as e:
            if not (isinstance(e, Exception) or is_bug(e)):
                raise
            self.kernel.oops(e)
            raise err(EIO, f"oops: {e}") from e
        finally:
            module.send_uevent("remove")
            self._forget(module)

    def _forget(self, module: Module) -> None:
        for need in self.loaded.values():
            if module in need.users:
                need.put_ref()
                need.users.remove(module)
                need.holders.remove_link(module.name)
        del self.loaded[module.name]
        module.holder.gone = True
        module.delete()

    def proc_modules(self) -> str:
        """kernel/module/procfs.c:m_show(): last loaded first, addresses hidden."""
        self.kernel.up()
        rows = []
        for m in reversed(self.loaded.values()):
            users = "".join(f"{user.name}," for user in m.users) or "-"
            rows.append(f"{m.name} {m.size} {m.refcnt} {users} {STATES[m.state]} 0x0000000000000000\n")
        return "".join(rows)
