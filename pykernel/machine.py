"""
Machines: which silicon sits in which slot, what the processor and the IOMMU can, which modules load; described in TOML.

``load("dsa")`` reads a built-in machine, ``load("my.toml")`` a file. An error names the file, the line and the key.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pykernel.lib.outside import entry_point_names, is_path, resolve, why

if TYPE_CHECKING:
    from pykernel.base.module import Module
    from pykernel.recorded import Recorded

__all__ = [
    "BUILT_IN",
    "DRIVERS",
    "OPTIONS",
    "Cpu",
    "IommuSpec",
    "Machine",
    "MachineError",
    "PciSpec",
    "built_in_names",
    "check_module",
    "load",
    "module_class",
    "module_name",
    "parse",
]

BUILT_IN = Path(__file__).with_name("machines")  # importlib.resources would import what archives need

# module name -> where its class is
DRIVERS = {
    "idxd_bus": "pykernel.drivers.idxd:IdxdBusModule",
    "idxd": "pykernel.drivers.idxd:IdxdModule",
    "vfio_pci": "pykernel.drivers.vfio_pci:VfioPciModule",
    "vfio_pci_core": "pykernel.drivers.vfio_pci:VfioPciCoreModule",
    "pci_stub": "pykernel.drivers.pci_stub:PciStubModule",
    "iommufd": "pykernel.iommufd.main:IommufdModule",
    "vfio": "pykernel.vfio.modules:VfioModule",
    "vfio_virqfd": "pykernel.vfio.modules:VfioVirqfdModule",
    "vfio_iommu_type1": "pykernel.vfio.type1:VfioIommuType1Module",
    "mdev": "pykernel.mdev.core:MdevModule",
    "vfio_mdev": "pykernel.drivers.vfio_mdev:VfioMdevModule",
    "ioasid_user": "pykernel.iommu.ioasid_user:IoasidUserModule",
    "mtty": "pykernel.drivers.mtty:MttyModule",
    "vdsa": "pykernel.drivers.vdsa:VdsaModule",
    "mdpy": "pykernel.drivers.mdpy:MdpyModule",
    "kvm": "pykernel.virt.kvm.main:KvmModule",
    "kvm_intel": "pykernel.virt.kvm.main:KvmIntelModule",
}

# module name -> the CONFIG_ option without which it is not built
OPTIONS = {"iommufd": "IOMMUFD"}

SMALLEST_MEMORY, LARGEST_MEMORY = 16 << 20, 1 << 40

ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")


class MachineError(ValueError):
    """A machine file that cannot be used; one sentence that says where and what to do."""


@dataclass(frozen=True)
class PciSpec:
    """One function: its model, its slot and the model's options."""

    model: str
    address: str
    options: dict[str, Any] = field(default_factory=dict)
    line: int = 0


@dataclass(frozen=True)
class IommuSpec:
    """
    The IOMMU: is there one, and does it do scalable mode (SVA).

    Bits of address (39, 48, 57), the largest page ("4K", "2M", "1G"), what its capability registers say, and the
    regions that firmware wants mapped one to one: "0000:6a:01.0 7d000000-7dffffff".
    """

    enabled: bool = True
    sva: bool = True
    pasid_bits: int = 20
    address_width: int = 48
    largest_page: str = "1G"
    snoop_control: bool = True
    dirty_tracking: bool = True
    intr_remap: bool = True
    rmrr: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cpu:
    """
    The processors: how many, and which features.

    With *vmx* the machine can run virtual machines: its RAM is a file of memory then, which children of fork() share.
    """

    count: int = 2
    movdir64b: bool = True
    enqcmd: bool = True
    vmx: bool = False


@dataclass(frozen=True)
class Machine:
    """A whole machine, as a file describes it."""

    name: str
    cpu: Cpu = field(default_factory=Cpu)
    iommu: IommuSpec = field(default_factory=IommuSpec)
    pci: tuple[PciSpec, ...] = ()
    modules: dict[str, str] = field(default_factory=dict)
    cmdline: str = ""
    recorded: Recorded | None = None
    memory: int = 4 << 30

    @property
    def cpus(self) -> int:
        """How many processors."""
        return self.cpu.count


@dataclass(frozen=True)
class _Where:
    """A place in a file, for messages."""

    file: str
    text: str

    @cached_property
    def rows(self) -> list[str]:
        """The lines of the file."""
        return self.text.splitlines()

    @cached_property
    def heads(self) -> dict[str, list[int]]:
        """Table -> the numbers of the lines where one begins; the top begins before the first line."""
        found: dict[str, list[int]] = {"": [0]}
        for n, row in enumerate(self.rows, 1):
            if m := re.match(r"\s*\[\[?\s*([^\]]*?)\s*\]\]?\s*(#.*)?$", row):
                found.setdefault(m[1], []).append(n)
        return found

    def line(self, table: str, nth: int, key: str) -> int:
        """The line of *key* in the *nth* table called *table* ("" is the top), 0 when it is not found."""
        heads = self.heads.get(table, [])
        if nth >= len(heads) or not key:
            return heads[nth] if nth < len(heads) else 0
        for n, row in enumerate(self.rows[heads[nth] :], heads[nth] + 1):
            if row.lstrip().startswith("["):
                break
            if re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", row):
                return n
        return 0

    def error_in(self, table: str, nth: int, key: str, why: str) -> MachineError:
        """The same for *key* ("attrs.vendor") of the *nth* row of *table*, which has tables of its own."""
        heads = [*self.heads.get(table, []), len(self.rows) + 1]
        if nth + 1 >= len(heads):  # not written as [[table]]
            return self.error(table, nth, key, why)
        first, end = heads[nth : nth + 2]
        keys = {row.partition("=")[0].strip("\"' \t"): n for n, row in enumerate(self.rows[first : end - 1], first + 1)}
        above, _, last = key.partition(".")
        line = next((keys[name] for name in (key, last, above) if name in keys), first)
        return MachineError(f"{self.file}:{line}: {table}{'.' if key else ''}{key}: {why}")

    def error(self, table: str, nth: int, key: str, why: str) -> MachineError:
        """A MachineError that names the file, the line and the key."""
        # a table may be written as [table], as table.key = or as table = {...}
        places = ((table, nth, key), (table, nth, ""), ("", 0, table or key), (key, 0, ""))
        line = next(filter(None, (self.line(*place) for place in places)), 0)
        at = f"{self.file}:{line}" if line else self.file
        name = ".".join(p for p in (table, key) if p)
        return MachineError(f"{at}: {name}: {why}" if name else f"{at}: {why}")


def built_in_names() -> list[str]:
    """The machines that come with pykernel."""
    return sorted(p.stem for p in BUILT_IN.glob("*.toml"))


def load(name: str | os.PathLike[str]) -> Machine:
    """
    The machine called *name*: built in, or a TOML file's path.

    Raises:
        MachineError: no such machine, or what is wrong in the file.
    """
    is_file = not isinstance(name, str) or name.endswith((".toml", ".umockdev")) or "/" in name
    name = os.fspath(name)
    if is_file:
        try:
            text = Path(name).read_text("utf-8")
        except OSError as e:
            raise MachineError(f"{name}: {e.strerror}") from e
        except UnicodeDecodeError as e:
            raise MachineError(f"{name}: not a text file in UTF-8") from e
        return _dump(text, name) if name.endswith(".umockdev") else parse(text, name)
    if name not in built_in_names():
        raise MachineError(f"no machine {name!r}: one of {', '.join(built_in_names())}, or the path of a .toml file")
    return parse((BUILT_IN / f"{name}.toml").read_text("utf-8"), f"{name}.toml")


def parse(text: str, file: str = "<machine>") -> Machine:
    """A machine from TOML *text*. Raises MachineError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        m = re.search(r"\(at line (\d+)", str(e))
        raise MachineError(f"{file}{':' + m[1] if m else ''}: not TOML: {e}") from e
    where = _Where(file, text)
    name = Path(file).name.removesuffix(".toml")
    kinds: dict[str, type] = {"name": str, "cmdline": str, "cpu": dict, "iommu": dict, "pci": list, "modules": dict}
    _only(where, "", 0, data, kinds | {"recorded": dict, "sysfs": list, "memory": str})
    pci = _pci(where, data.get("pci", []))
    return Machine(
        name=data.get("name", name),
        cpu=Cpu(**_only(where, "cpu", 0, data.get("cpu", {}), _CPU)),
        iommu=_iommu(where, data.get("iommu", {})),
        pci=pci,
        modules=_modules(where, data.get("modules", {})),
        cmdline=data.get("cmdline", ""),
        recorded=_recorded(where, data, pci),
        memory=_memory(where, data.get("memory", "4G")),
    )


_CPU: dict[str, type] = {"count": int, "movdir64b": bool, "enqcmd": bool, "vmx": bool}
_IOMMU: dict[str, type] = {
    "enabled": bool,
    "sva": bool,
    "pasid_bits": int,
    "address_width": int,
    "largest_page": str,
    "snoop_control": bool,
    "dirty_tracking": bool,
    "intr_remap": bool,
    "rmrr": list,
}
_RMRR = re.compile(rf"{ADDRESS.pattern} [0-9a-f]*000-[0-9a-f]*fff")


def _iommu(where: _Where, data: dict[str, Any]) -> IommuSpec:
    spec = _only(where, "iommu", 0, data, _IOMMU)
    if spec.get("address_width", 48) not in (39, 48, 57):
        raise where.error("iommu", 0, "address_width", "must be 39, 48 or 57")
    if not 1 <= spec.get("pasid_bits", 20) <= 20:  # PCI_PASID_CAP_WIDTH: 20 bits are all that a request has
        raise where.error("iommu", 0, "pasid_bits", "must be 1 to 20")
    if spec.get("largest_page", "1G") not in ("4K", "2M", "1G"):
        raise where.error("iommu", 0, "largest_page", 'must be "4K", "2M" or "1G"')
    rmrr = tuple(spec.get("rmrr", ()))
    for text in rmrr:
        if not isinstance(text, str) or not _RMRR.fullmatch(text):
            raise where.error("iommu", 0, "rmrr", f'{text!r} is no region like "0000:6a:01.0 7d000000-7dffffff"')
    known: dict[str, Any] = {**spec, "rmrr": rmrr}
    return IommuSpec(**known)


def _memory(where: _Where, text: str) -> int:
    """Bytes of RAM, as memparse() reads them. Raises MachineError."""
    m = re.fullmatch(r"([0-9]+)([MGT])", text)
    size = int(m[1]) << {"M": 20, "G": 30, "T": 40}[m[2]] if m else 0
    if not SMALLEST_MEMORY <= size <= LARGEST_MEMORY:
        raise where.error("", 0, "memory", f'must be 16M to 1T, as in "4G", not {text!r}')
    return size


def _dump(text: str, file: str) -> Machine:
    """A machine from a dump of umockdev-record(1). Raises MachineError."""
    from pykernel.recorded.umockdev import DumpError, read

    try:
        return Machine(name=Path(file).name.removesuffix(".umockdev"), recorded=read(text, file))
    except DumpError as e:
        raise MachineError(f"{file}:{e.line}: {e}") from e


def _recorded(where: _Where, data: dict[str, Any], pci: tuple[PciSpec, ...]) -> Recorded | None:
    if "recorded" not in data and "sysfs" not in data:
        return None
    from pykernel.recorded.rows import RowError, read

    options = data.get("recorded", {})
    if options.get("root") is True and (pci or data.get("modules")):
        raise where.error("recorded", 0, "root", "a machine that has only what was recorded has no [[pci]], [modules]")
    try:
        recorded = read(options, data.get("sysfs", []), where.heads.get("sysfs", []), where.file)
    except RowError as e:
        if e.nth is None:
            raise where.error("recorded", 0, e.key, str(e)) from e
        raise where.error_in("sysfs", e.nth, e.key, str(e)) from e
    for spec in pci:
        found = recorded.tree.find(f"devices/pci{spec.address[:7]}/{spec.address}")
        if found is not None:
            at = f"{where.file}:{found.line or spec.line}"
            raise MachineError(f"{at}: sysfs.path: {spec.address} is recorded, and the [[pci]] of line {spec.line} too")
    return recorded


def _only(where: _Where, table: str, nth: int, data: dict[str, Any], kinds: dict[str, type] | None) -> dict[str, Any]:
    for key, value in data.items():
        kind = str if kinds is None else kinds.get(key)
        if kind is None:
            raise where.error(table, nth, key, f"unknown key; known: {', '.join(kinds or ())}")
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise where.error(table, nth, key, _must_be(key, kind, value))
    if table == "cpu" and not 1 <= data.get("count", 1) <= 256:
        raise where.error(table, nth, "count", "must be 1 to 256")
    return data


def _must_be(key: str, kind: type, value: Any) -> str:
    if key == "rmrr":
        return f"must be an array of strings, not {value!r}"
    how = f"; write [[{key}]]" if kind is list and isinstance(value, dict) else f", not {value!r}"
    return f"must be {_NAMES[kind]}{how}"


_NAMES = {str: "a string", int: "a whole number", bool: "true or false", dict: "a table", list: "an array of tables"}


def _pci(where: _Where, rows: list[Any]) -> tuple[PciSpec, ...]:
    specs: list[PciSpec] = []
    taken: set[str] = set()
    for nth, row in enumerate(rows):
        if not isinstance(row, dict):
            raise where.error("pci", nth, "", "must be a table: write [[pci]]")
        options = dict(row)
        model, address = options.pop("model", None), options.pop("address", None)
        if model is None:
            raise where.error("pci", nth, "model", 'is missing: which silicon, as in model = "dsa"')
        if not isinstance(model, str):
            raise where.error("pci", nth, "model", _must_be("model", str, model))
        if address is None:
            address = default_address(nth)
        if not isinstance(address, str) or not ADDRESS.fullmatch(address):
            raise where.error("pci", nth, "address", f'{address!r} is no PCI address like "0000:6a:01.0"')
        if address in taken:
            raise where.error("pci", nth, "address", f"{address} is taken")
        taken.add(address)
        specs.append(PciSpec(resolve(model, where.file), address, options, where.line("pci", nth, "")))
    _check_options(where, specs)
    return tuple(specs)


def default_address(nth: int) -> str:
    """Where the *nth* function sits when its row does not say: a bus of its own, from 6a on, in as many domains."""
    domain, bus = divmod(0x6A + nth, 0x100)
    return f"{domain:04x}:{bus:02x}:01.0"


def _check_options(where: _Where, specs: list[PciSpec]) -> None:
    from pykernel.hw import MODELS, make
    from pykernel.hw.topology import TopologyError, check_buses

    good: list[tuple[str, dict[str, Any]]] = []  # rows are often alike
    for nth, spec in enumerate(specs):
        if (spec.model, spec.options) in good[-8:]:
            continue
        try:
            make(spec.model, spec.options)
            good.append((spec.model, spec.options))
        except ValueError as e:
            model = "model" if "model" in str(e) or is_path(spec.model) else ""
            key = next((k for k in spec.options if k in str(e)), model)
            raise where.error("pci", nth, key, str(e)) from e
        except Exception as e:
            if spec.model in MODELS:
                raise
            said = why(spec.model, e) if is_path(spec.model) else f"{spec.model}: {type(e).__name__}: {e}"
            raise where.error("pci", nth, "model", said) from e
    try:
        check_buses([(spec.model, spec.address, spec.options) for spec in specs])
    except TopologyError as e:
        raise where.error("pci", e.nth, e.key, str(e)) from e


def module_class(name: str) -> type[Module]:
    """The class of the module *name* of :data:`DRIVERS`, imported now."""
    package, _, attr = DRIVERS[name].partition(":")
    cls: type[Module] = getattr(import_module(package), attr)
    return cls


def check_module(name: str, args: str, *, e: bool = True) -> None:
    """
    Whether there is a module *name* that can be loaded with *args*; *e*: this kernel's kstrtobool() knows "enable".

    Raises:
        ValueError: no such module or parameter, or a value that the parameter's type refuses.
    """
    plain = name.replace("-", "_")
    if plain in DRIVERS and not args.strip():
        return  # there is no need to import the driver
    cls = module_class(plain) if plain in DRIVERS else _foreign_class(name)
    if args.strip():
        from pykernel.base.params import check_args

        check_args(args, cls.params, e=e)


def _foreign_class(name: str) -> type[Module]:
    """The class of the module at the path *name*, or that a package has. Raises ValueError."""
    from pykernel.base.module import ENTRY_POINTS, out_of_tree

    find = out_of_tree(name)
    if find is None:
        known = sorted({*DRIVERS, *entry_point_names(ENTRY_POINTS)})
        raise ValueError(f"no such module; known: {', '.join(known)}; or the path of a .py file")
    cls = find()
    if is_path(name) and cls.name_ in DRIVERS:
        raise ValueError(f"{name}: {cls.__name__}.name_: there is a module {cls.name_} already: give it another name")
    return cls


def module_name(name: str) -> str:
    """The module's own name, when *name* is the path of its file; any other is as it is. Raises ValueError."""
    return _foreign_class(name).name_ if is_path(name) else name.replace("-", "_")


def _modules(where: _Where, rows: dict[str, Any]) -> dict[str, str]:
    _only(where, "modules", 0, rows, None)
    for name, args in rows.items():
        try:
            check_module(resolve(name, where.file), args)
        except ValueError as e:
            raise where.error("modules", 0, name, str(e)) from e
    return {resolve(name, where.file): args for name, args in rows.items()}
