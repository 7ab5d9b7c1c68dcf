"""
Modules: what modprobe and rmmod do, and /sys/module (kernel/module/main.c, sysfs.c; drivers/base/module.c;
kernel/params.c).

A driver is a subclass of :class:`Module` that a :class:`ModuleTable` knows by name; loading makes an instance for
this kernel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from errno import EBUSY, EEXIST, EINVAL, ENOENT, EPERM, EWOULDBLOCK
from typing import TYPE_CHECKING, Any, ClassVar

from pykernel.errors import err
from pykernel.fs.procfs import ProcFs
from pykernel.fs.sysfs import AttrGroup, Attribute, Kobject, Kset, SysFs
from pykernel.lib.kstrtox import kstrtobool, kstrtoint, kstrtouint, kstrtoul
from pykernel.log import ERR, WARNING

if TYPE_CHECKING:
    from pykernel.base.bus import Driver
    from pykernel.base.core import Device
    from pykernel.kernel import Kernel

__all__ = ["Module", "Modules", "Param"]


@dataclass(frozen=True, slots=True)
class Param:
    """``module_param(name, type, perm)``: *type* is bool, int, uint, ulong or charp; mode 0 hides the file."""

    name: str
    type: str
    default: Any
    mode: int = 0o444

    def parse(self, text: str, *, e: bool = False) -> Any:
        """kernel/params.c:param_set_*(). Raises EINVAL, ERANGE."""
        if self.type == "bool":
            return kstrtobool(text, e=e)
        if self.type == "charp":
            return text.removesuffix("\n")
        return {"int": kstrtoint, "uint": kstrtouint, "ulong": kstrtoul}[self.type](text, 0)

    def format(self, value: Any) -> str:
        """kernel/params.c:param_get_*()."""
        if self.type == "bool":
            return "Y\n" if value else "N\n"
        return f"{value}\n"


class Parameters(Kobject):
    """/sys/module/NAME/parameters."""

    def __init__(self, module: Module) -> None:
        super().__init__(module.kernel, "parameters", module)
        self.module = module

    def fill(self) -> None:
        """One file a parameter. kernel/params.c:module_param_sysfs_setup()."""
        for p in self.module.params:
            if p.mode:
                self.create_file(Attribute(p.name, self._show(p), self._store(p), p.mode))

    @staticmethod
    def _show(p: Param) -> Callable[[Parameters], str]:
        return lambda self: p.format(self.module.param[p.name])

    @staticmethod
    def _store(p: Param) -> Callable[[Parameters, str], None] | None:
        def store(self: Parameters, buf: str) -> None:
            self.module.param[p.name] = p.parse(buf, e=self.kernel.profile.kstrtobool_enable)

        return store if p.mode & 0o222 else None


class Module(Kobject):
    """
    ``struct module``. Subclasses name themselves, their parameters and what they need, and give init() and exit().

    ``builtin`` modules are part of the kernel image: they cannot be removed and have no refcnt.
    """

    name_: ClassVar[str]
    params: ClassVar[tuple[Param, ...]] = ()
    depends: ClassVar[tuple[str, ...]] = ()
    aliases: ClassVar[tuple[str, ...]] = ()
    builtin: ClassVar[bool] = False
    size: ClassVar[int] = 16384

    version: ClassVar[str] = ""

    attrs = AttrGroup("uevent", "version", "srcversion", "coresize", "initsize", "taint", "initstate", "refcnt")

    def __init__(self, kernel: Kernel, args: str = "") -> None:
        super().__init__(kernel, self.name_, kernel.sub(SysFs).top["module"])
        self.param: dict[str, Any] = {p.name: p.default for p in self.params}
        self.state = "coming"
        self.refcnt = 0
        self.drivers: dict[str, Driver] = {}
        self.holders = Kset(kernel, "holders", self)
        self.drivers_dir = Kset(kernel, "drivers", self)
        self._parse(args)

    def _parse(self, args: str) -> None:
        # kernel/params.c:parse_args(): an unknown parameter is only warned of
        known = {p.name: p for p in self.params}
        for word in args.split():
            key, sep, value = word.partition("=")
            p = known.get(key.replace("-", "_"))
            if p is None:
                self.kernel.log.printk(WARNING, f"{self.name}: unknown parameter '{key}' ignored")
                continue
            if not sep and p.type != "bool":
                self.kernel.log.printk(ERR, f"{self.name}: `{key}' invalid for parameter `{key}'")
                raise err(EINVAL)
            try:
                self.param[p.name] = p.parse(value if sep else "1", e=self.kernel.profile.kstrtobool_enable)
            except OSError as e:
                self.kernel.log.printk(ERR, f"{self.name}: `{value}' invalid for parameter `{key}'")
                raise err(e.errno or EINVAL) from e

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

    def use_by_binding(self, dev: Device) -> None:
        """A driver of ours was bound."""

    def unuse_by_binding(self, dev: Device) -> None:
        """A driver of ours was unbound."""

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
        """A built-in module has only ``uevent``; versions are there with MODULE_VERSION."""
        if name.endswith("version"):
            return bool(self.version)
        return name == "uevent" or not self.builtin

    def version_show(self) -> str:
        """MODULE_VERSION."""
        return f"{self.version}\n"

    def srcversion_show(self) -> str:
        """23 hexadecimal digits that stand for the source."""
        return f"{hashlib.md5(self.name.encode(), usedforsecurity=False).hexdigest()[:23].upper()}\n"

    def uevent_store(self, buf: str) -> None:
        """
        kernel/module/sysfs.c:store_uevent(): synthetic events of a module go nowhere here, junk is refused.

        Raises EINVAL.
        """
        from pykernel.base.uevent import Uevents, kobject_synth_uevent

        kobject_synth_uevent(self, buf, lambda action, env: self.kernel.sub(Uevents).send(self, action, env))

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


class Modules:
    """The modules of one kernel: those that are known and those that are loaded."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.known: dict[str, Callable[[], type[Module]]] = {}
        self.loaded: dict[str, Module] = {}
        self.options: dict[str, str] = {}
        kernel.sub(ProcFs).create("modules", self.proc_modules)

    def add(self, name: str, find: Callable[[], type[Module]]) -> None:
        """Make a module known; *find* imports it when it is first loaded."""
        self.known[name.replace("-", "_")] = find

    def modprobe(self, name: str, args: str = "") -> Module:
        """
        Load *name* and what it needs. An already loaded module is left as it is, as modprobe(8) does.

        Raises:
            ENOENT: no such module. Else what its init() says.
        """
        name = name.replace("-", "_")
        if name in self.loaded:
            return self.loaded[name]
        return self.init_module(name, args or self.options.get(name, ""))

    def init_module(self, name: str, args: str = "") -> Module:
        """C: ``long sys_init_module(...)``. Raises EEXIST, ENOENT, EINVAL, and what init() says."""
        if name in self.loaded:
            raise err(EEXIST, f"module {name} is loaded")
        try:
            cls = self.known[name]()
        except KeyError:
            raise err(ENOENT, f"no module {name}; known: {', '.join(sorted(self.known))}") from None
        needs = [self.modprobe(d) for d in cls.depends]
        module = cls(self.kernel, args)
        module.add()
        module.holders.add()
        if not module.builtin:
            module.add_sections()
        if any(p.mode for p in module.params):
            parameters = Parameters(module)
            parameters.add()
            parameters.fill()
        self.loaded[name] = module
        for need in needs:
            need.get_ref()
            need.holders.create_link(module, module.name)
        try:
            module.init()
        except OSError:
            self._forget(module)
            raise
        module.state = "live"
        return module

    def rmmod(self, name: str) -> None:
        """
        C: ``long sys_delete_module(const char *, unsigned int)`` with O_NONBLOCK.

        Raises:
            ENOENT: not loaded.
            EWOULDBLOCK: in use, or others depend on it.
            EPERM: built in.
        """
        module = self.loaded.get(name.replace("-", "_"))
        if module is None:
            raise err(ENOENT)
        if module.builtin:
            raise err(EPERM, f"{name} is built in")
        if module.holders.dir.children or module.refcnt:
            raise err(EWOULDBLOCK, f"module {name} is in use")
        if module.state != "live":
            raise err(EBUSY)
        module.state = "going"
        module.exit()
        self._forget(module)

    def _forget(self, module: Module) -> None:
        for d in module.depends:
            self.loaded[d].put_ref()
            self.loaded[d].holders.remove_link(module.name)
        del self.loaded[module.name]
        module.delete()

    def proc_modules(self) -> str:
        """The text of /proc/modules, last loaded first."""
        rows = []
        for m in reversed(self.loaded.values()):
            if not m.builtin:
                users = ",".join(m.holders.dir.children) + "," if m.holders.dir.children else "-"
                rows.append(f"{m.name} {m.size} {m.refcnt} {users} {m.state.capitalize()} 0x0000000000000000\n")
        return "".join(rows)

    def register_all(self, names: Iterable[tuple[str, Callable[[], type[Module]]]]) -> None:
        """Make many known."""
        for name, find in names:
            self.add(name, find)
