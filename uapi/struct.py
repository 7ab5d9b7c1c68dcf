"""
C structs and unions as annotated classes: the class is the one source, cffi gives its layout and its storage.

::

    class vfio_device_info(Struct):
        argsz: u32 = 0
        flags: u32 = 0

Field annotations, in the order of the C members:

- ``x: u32 = 0``                                        ``__u32 x;``
- ``x: Annotated[u32, Bits(20)] = 0``                   ``__u32 x:20;``
- ``x: Annotated[u8, CType("volatile __u8")] = 0``      ``volatile __u8 x;``
- ``x: Annotated[bytes, u8, 16] = b""``                 ``__u8 x[16];`` read and written as bytes
- ``x: Annotated[MutableSequence[int], u64, 8] = ZERO`` ``__u64 x[8];`` a view: ``s.x[3] = 1`` writes through
- ``x: Annotated[bytes, u8, ...] = b""``                ``__u8 x[];`` a flexible array, last in the struct
- ``x: vfio_iova_range = ZERO``                         ``struct vfio_iova_range x;`` a view
- ``x = anon_union(until="c")``                         the next fields, up to ``c``, are members of an anonymous union

Nothing is laid out when a class is made: cffi parses one struct when it is used first.
"""

from __future__ import annotations

from _thread import RLock
from collections.abc import Callable, Iterable
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, cast, dataclass_transform

from pykernel.uapi.members import (
    ZERO,
    Bits,
    CType,
    Group,
    Member,
    Name,
    aligned_le64,
    aligned_u64,
    anon_struct,
    anon_union,
    be16,
    char,
    le16,
    le32,
    le64,
    parse,
    s8,
    s16,
    s32,
    s64,
    u8,
    u16,
    u32,
    u64,
    virtio16,
    virtio32,
    virtio64,
)  # fmt: skip
from pykernel.uapi.storage import Array, Storage, get_ffi, hexadecimal

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = [
    "ZERO", "Array", "Bits", "CType", "Field", "Name", "Struct", "Union", "aligned_le64", "aligned_u64",
    "anon_struct", "anon_union", "be16", "char", "cname", "layout", "le16", "le32", "le64", "s8",
    "s16", "s32", "s64", "u8", "u16", "u32", "u64",
    "virtio16", "virtio32", "virtio64",
]  # fmt: skip


class Field(NamedTuple):
    """Where one member lies, as C sees it."""

    name: str
    cname: str
    offset: int
    size: int  # bytes of the whole member; of its declared type for a bit-field; 0 for a flexible array
    bits: tuple[int, int] | None  # (lowest bit counted from offset, width) of a bit-field
    rank: int  # dimensions of an array, else 0
    item: int  # bytes of one element of an array, else 0
    signed: bool | None  # None: not a number


_build_lock = RLock()  # two threads may use a struct first at the same time


@cache
def _tag(cls: type, suffix: str = "") -> str:
    """Two headers (or two tests) may name a struct alike, one FFI may not."""
    return f"{cls.__name__}_{id(cls):x}{suffix}"


class StructType(type):
    """The class of struct classes: notes the order of the class body, and lets no other attribute in."""

    _body: tuple[tuple[str, Group | None], ...]
    _packed: bool
    _given: str
    _built: bool
    _owner: Any

    def __new__(
        mcs, name: str, bases: tuple[type, ...], ns: dict[str, Any], *, packed: bool = False, ctype: str = ""
    ) -> StructType:
        ns.setdefault("__slots__", ())
        groups = {k: v for k, v in ns.items() if isinstance(v, Group)}
        order = [k for k in ns if k[:2] != "__"]
        cls = super().__new__(mcs, name, bases, {k: v for k, v in ns.items() if k not in groups})
        # Not cls.__annotations__, which this metaclass's own annotations would hide
        own = type.__dict__["__annotations__"].__get__(cls)  # noqa: RUF063  importing inspect costs more than all else
        hints = {k for k, hint in own.items() if "ClassVar" not in str(hint)}
        if missing := hints - set(order):
            raise TypeError(f"{name}: give {', '.join(sorted(missing))} a default, as C does")
        body = tuple((k, groups.get(k)) for k in order if k in hints or k in groups)
        if body and any(b._body for b in bases if isinstance(b, StructType)):
            raise TypeError(f"{name}: a C struct has no base; give it a field of that struct")
        for _, group in body:
            if group and group.until not in hints:
                raise TypeError(f"{name}: no field {group.until} to end the anonymous {group.kind}")
        cls._body = body or getattr(cls, "_body", ())
        if body:
            cls._packed, cls._given, cls._built = packed, ctype, False
            cls._owner = cls
        return cls


def _declare(cls: type[Struct], members: dict[str, Member]) -> None:
    """Hand the struct to cffi. An anonymous group gets a tag of its own: only so can it differ in packing."""
    stack: list[tuple[str, Group, list[str]]] = [("", Group(cls._kind, "", packed=cls._packed), [])]
    for name, group in cls._body:
        if group:
            stack.append((_tag(cls, f"_{name}"), group, []))
            continue
        stack[-1][2].append(members[name].declare())
        while stack[-1][1].until == name:
            tag, done, lines = stack.pop()
            get_ffi().cdef(f"{done.kind} {tag} {{ {' '.join(lines)} }};", packed=done.packed)
            stack[-1][2].append(f"{done.kind} {tag};")
    if len(stack) > 1:
        raise TypeError(f"{cls.__name__}: the anonymous {stack[-1][1].kind} before {stack[-1][1].until} has no end")
    get_ffi().cdef(f"{cls._kind} {_tag(cls)} {{ {' '.join(stack[0][2])} }};", packed=cls._packed)


def _scalar(name: str) -> property:
    """A number: reading is one C call."""

    def fset(self: Struct, value: int) -> None:
        setattr(self._c, name, value)

    return property(attrgetter(f"_c.{name}"), fset)


def _bytes_array(name: str, size: int) -> property:
    """A byte array: whole in, whole out; what is short is filled with zeros."""
    buffer, get = get_ffi().buffer, attrgetter(f"_c.{name}")

    def fget(self: Struct) -> bytes:
        return cast(bytes, buffer(get(self))[:])

    def fset(self: Struct, value: bytes) -> None:
        if len(value) > size:
            raise IndexError(f"{name} holds {size} bytes, not {len(value)}")
        buffer(get(self))[:] = bytes(value).ljust(size, b"\0")

    return property(fget, fset)


def _nested(member: Member) -> property:
    """A struct in a struct: a view that keeps its parent alive."""
    addressof, name, cls = get_ffi().addressof, member.name, cast("type[Struct]", member.elem)

    def fget(self: Struct) -> Struct:
        return cls._view(addressof(self._c, name), self)

    def fset(self: Struct, value: Struct) -> None:
        setattr(self._c, name, value._c[0])

    return property(fget, fset)


def _array(member: Member) -> property:
    """An array in a struct: a view."""
    name, cls = member.name, member.cls

    def fget(self: Struct) -> Array[Any]:
        return Array(getattr(self._c, name), self, cls)

    def fset(self: Struct, value: Iterable[Any]) -> None:
        Array(getattr(self._c, name), self, cls)[:] = value

    return property(fget, fset)


def _flexible(member: Member, offset: int) -> property:
    """The array without a length at the end of a struct: as long as the storage behind it."""
    ffi, ctype, cls = get_ffi(), member.ctype, member.cls
    item = ffi.sizeof(ctype)

    def array(self: Struct) -> Any:
        count = max(0, (self._size - offset) // item)
        return ffi.cast(f"{ctype}(*)[{count}]", ffi.cast("char *", self._c) + offset)[0]

    def fget(self: Struct) -> Any:
        return ffi.buffer(array(self))[:] if member.as_bytes else Array(array(self), self, cls)

    def fset(self: Struct, value: Iterable[Any]) -> None:
        Array(array(self), self, cls)[:] = value

    return property(fget, fset)


def _property(cls: type[Struct], member: Member) -> property:
    if member.flexible:
        return _flexible(member, get_ffi().offsetof(cls._ctype(), member.name))
    if member.dims and member.as_bytes:
        return _bytes_array(member.name, member.dims[0] or 0)
    if member.dims:
        return _array(member)
    return _scalar(member.name) if isinstance(member.elem, str) else _nested(member)


def _converter(member: Member) -> Callable[[Any], Any] | None:
    """What makes a keyword argument fit cffi's initialiser; None when it fits as it is."""
    if member.dims:
        if member.as_bytes and not member.flexible:
            return bytes
        return list if isinstance(member.elem, str) else lambda value: [s._c[0] for s in value]
    return None if isinstance(member.elem, str) else lambda value: value._c[0]


def _constructor(new: Callable[..., Any], converters: dict[str, Callable[[Any], Any]]) -> Callable[[Any, Any], Any]:
    """*new*, for a struct with fields whose values cffi does not take as they are."""
    none_of = converters.keys().isdisjoint

    def convert_and_new(ptr: Any, fields: dict[str, Any]) -> Any:
        if not none_of(fields):
            fields |= {name: converters[name](value) for name, value in fields.items() if name in converters}
        return new(ptr, fields)

    return convert_and_new


def _methods(cls: type[Struct], ffi: Any) -> dict[str, Any]:
    """
    Construction and conversion for one struct that is laid out.

    Every packing and unpacking goes through these: what they need is in their cells, nothing is looked up.
    """
    # what ffi.new() and ffi.from_buffer() call when they need not parse the type
    new, from_buffer = ffi._backend.newp, ffi._backend.from_buffer
    buffer, ptr, size, make = ffi.buffer, cls._ptr, cls._sizeof, object.__new__
    converters = {name: convert for name, m in cls._members.items() if (convert := _converter(m))}
    construct = _constructor(new, converters) if converters else new

    def __init__(self: Struct, **fields: Any) -> None:
        try:
            self._c = construct(ptr, fields)
        except KeyError as e:
            raise TypeError(f"{type(self).__name__} has no field {e}") from None

    def __bytes__(self: Struct) -> bytes:
        return buffer(self._c)[:]  # type: ignore[no-any-return]

    def from_bytes(cls: type[Struct], data: Any) -> Struct:
        raw = bytearray(data)
        if len(raw) != size:
            if len(raw) > size:
                raise ValueError(f"{cls.__name__} has a length of {size} bytes, not {len(raw)}")
            raw = raw.ljust(size, b"\0")
        self = make(cls)
        self._c = from_buffer(ptr, raw)
        return self

    return {"__init__": __init__, "__bytes__": __bytes__, "from_bytes": classmethod(from_bytes)}


def _flexible_methods(cls: type[Struct], ffi: Any) -> dict[str, Any]:
    """The same for a struct that ends in an array without a length: each one has a size of its own."""
    simple, size = _methods(cls, ffi), cls._sizeof

    def __init__(self: Struct, **fields: Any) -> None:
        simple["__init__"](self, **fields)
        self._size = ffi.sizeof(self._c[0])

    def __bytes__(self: Struct) -> bytes:
        return ffi.buffer(self._c, self._size)[:]  # type: ignore[no-any-return]

    def from_bytes(cls: type[Struct], data: Any) -> Struct:
        return cls.from_buffer(bytearray(data).ljust(size, b"\0"))

    return {"__init__": __init__, "__bytes__": __bytes__, "from_bytes": classmethod(from_bytes)}


@dataclass_transform(kw_only_default=True)
class Struct(Storage, metaclass=StructType):
    """
    A C struct. Subclass it with annotated fields; ``packed=True`` is ``__attribute__((packed))``, ``ctype="..."``
    the C type when it is not ``struct <name of the class>``.

    Every field may be given by keyword; the rest is zero. A value that does not fit its field is OverflowError.
    """

    __slots__ = ()

    _kind: ClassVar[str] = "struct"
    _packed: ClassVar[bool]
    _given: ClassVar[str]
    _flex: ClassVar[Member | None]
    _members: ClassVar[dict[str, Member]]
    _buffer: ClassVar[Any]
    _ptr: ClassVar[Any]
    _sizeof: ClassVar[int]

    @classmethod
    def _build(cls) -> None:
        """Lay the struct out and replace the defaults in the class by properties that reach the storage."""
        own: type[Struct] = cls._owner
        with _build_lock:
            if own._built:
                return
            from typing import get_type_hints

            hints = get_type_hints(own, include_extras=True)
            own._members = {name: parse(own, name, hints[name]) for name, group in own._body if group is None}
            _declare(own, own._members)
            own._finish(get_ffi())

    @classmethod
    def _finish(cls, ffi: Any) -> None:
        members = cls._members
        cls._built = True
        cls._buffer = ffi.buffer
        cls._ptr = ffi.typeof(f"{cls._ctype()} *")
        cls._sizeof = ffi.sizeof(cls._ctype())
        cls._flex = next((m for m in members.values() if m.flexible), None)
        for name, member in members.items():
            setattr(cls, name, _property(cls, member))
        for name, method in (_flexible_methods if cls._flex else _methods)(cls, ffi).items():
            setattr(cls, name, method)

    @classmethod
    def _ctype(cls) -> str:
        cls._build()
        return f"{cls._kind} {_tag(cls._owner)}"

    @classmethod
    def _view(cls, c: Any, keep: object, size: int = 0) -> Self:
        """The struct at pointer *c*, inside something that *keep* keeps alive."""
        self = cls.__new__(cls)
        self._c, self._keep, self._size = c, keep, size or cls.sizeof()
        return self

    # These three are for the first use only: laid out, the class has its own, see _methods()
    def __init__(self, **fields: Any) -> None:
        self._build()
        type(self)._owner.__init__(self, **fields)

    def __bytes__(self) -> bytes:
        self._build()
        return cast(bytes, type(self)._owner.__bytes__(self))

    @classmethod
    def from_bytes(cls, data: ReadableBuffer) -> Self:
        """
        Copy *data* into a new struct. Short data leaves the rest zero, as ``copy_from_user(&s, arg, minsz)`` does.

        Raises ValueError when *data* is longer than the struct (unless it ends in a flexible array).
        """
        cls._build()
        return cast(Self, cls._owner.from_bytes.__func__(cls, data))

    @classmethod
    def from_buffer(cls, buf: WriteableBuffer, offset: int = 0) -> Self:
        """
        The struct that lies in *buf* at *offset*: nothing is copied, writes go through both ways.

        Raises ValueError when *buf* is too small, BufferError when it is read-only.
        """
        size, ffi = cls.sizeof(), get_ffi()
        # No memoryview in between: in a cycle that the collector clears, an exported one crashes CPython 3.11
        c = ffi.from_buffer("char[]", buf, require_writable=True)
        if offset < 0 or len(c) - offset < size:
            raise ValueError(f"{cls.__name__} needs {size} bytes, the buffer has {max(0, len(c) - offset)} at {offset}")
        return cls._view(ffi.cast(cls._ptr, c + offset), c, len(c) - offset)

    def memory(self) -> memoryview:
        """The struct's own bytes, writable: what a copy_to_user() goes through."""
        return memoryview(self._buffer(self._c, self._size if self._flex else self._sizeof))

    @classmethod
    def sizeof(cls) -> int:
        """C: ``sizeof(struct ...)`` in bytes."""
        cls._build()
        return cls._sizeof

    @classmethod
    def offsetof(cls, name: str) -> int:
        """C: ``offsetof(struct ..., name)``. TypeError for a bit-field, which has none."""
        if cls._find(name).bits:
            raise TypeError(f"{cls.__name__}.{name} is a bit-field")
        return cls._find(name).offset

    @classmethod
    def offsetofend(cls, name: str) -> int:
        """C: ``offsetofend(struct ..., name)``: the *minsz* of an ioctl whose last old field is *name*."""
        return cls.offsetof(name) + cls._find(name).size

    @classmethod
    def _find(cls, name: str) -> Field:
        for f in layout(cls):
            if f.name == name:
                return f
        raise AttributeError(f"{cls.__name__} has no field {name}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Struct) or type(other)._owner is not type(self)._owner:
            return NotImplemented
        return bytes(self) == bytes(other)

    __hash__ = None  # type: ignore[assignment]  # it can change

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={hexadecimal(getattr(self, name))}" for name in _shown(type(self)))
        return f"{type(self).__name__}({fields})"


class Union(Struct):
    """A C union: like Struct, all members at offset 0; at most one may be given by keyword."""

    __slots__ = ()
    _kind: ClassVar[str] = "union"


@cache
def _shown(cls: type[Struct]) -> tuple[str, ...]:
    """The members that repr() prints: of members that overlap, the one that covers most."""
    shown: list[str] = []
    spans: list[tuple[int, int]] = []
    for f in sorted(layout(cls), key=lambda f: -_span(f)[1] + _span(f)[0]):
        start, end = _span(f)
        if f.size == 0 or all(end <= s or e <= start for s, e in spans):
            shown.append(f.name)
            spans.append((start, end))
    return tuple(f.name for f in layout(cls) if f.name in shown)


def _span(f: Field) -> tuple[int, int]:
    """First and last bit of a member, in bits from the start of the struct."""
    start, width = f.bits or (0, 8 * f.size)
    return 8 * f.offset + start, 8 * f.offset + start + width


def cname(cls: type[Struct]) -> str:
    """What C calls the struct: ``struct <name of the class>`` unless the class says otherwise with ``ctype=``."""
    return cls._owner._given or f"{cls._kind} {cls._owner.__name__}"


@cache
def layout(cls: type[Struct]) -> tuple[Field, ...]:
    """Every member with its place, members of anonymous unions included, in the order of the class."""
    ffi = get_ffi()
    fields = dict(ffi.typeof(cls._ctype()).fields)
    return tuple(_field(ffi, fields[m.name], m) for m in cls._members.values())


def _field(ffi: Any, c: Any, m: Member) -> Field:
    signed = None if m.cls else int(ffi.cast(m.ctype, -1)) < 0
    bits = (c.bitshift, c.bitsize) if c.bitsize > 0 else None
    size, item = 0 if m.flexible else ffi.sizeof(c.type), ffi.sizeof(m.ctype) if m.dims else 0
    return Field(m.name, m.cname, c.offset, size, bits, len(m.dims), item, signed)
