"""
Bitmaps as text (lib/bitmap.c; lib/vsprintf.c for the two print formats). A bitmap is an ``int`` and its number of bits.

``"00000001,003f03fd"`` is the mask form, %*pb; ``"0,2-9,16-21,32"`` the list form, %*pbl.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EINVAL, EOVERFLOW, ERANGE

from pykernel.errors import err
from pykernel.lib.ctype import isspace, isxdigit
from pykernel.lib.kstrtox import parse_integer

__all__ = ["bitmap_list_string", "bitmap_parse", "bitmap_parselist", "bitmap_print_to_pagebuf", "bitmap_string"]

PAGE_SIZE = 4096
U32_MAX = 0xFFFFFFFF


def bitmap_string(bitmap: int, nbits: int) -> str:
    """Hexadecimal words of 32 bits, highest first, as many digits as *nbits* needs. C: ``%*pb``."""
    # lib/vsprintf.c:bitmap_string(): only the first word may be shorter than 8 digits
    bitmap &= (1 << nbits) - 1
    words = [f"{bitmap >> at & U32_MAX:0{(min(nbits - at, 32) + 3) // 4}x}" for at in range(0, nbits, 32)]
    return ",".join(reversed(words))


def bitmap_list_string(bitmap: int, nbits: int) -> str:
    """Numbers and ranges of the bits that are set, in decimal; "" when none is. C: ``%*pbl``."""
    # lib/vsprintf.c:bitmap_list_string()
    bitmap &= (1 << nbits) - 1
    parts: list[str] = []
    at = 0
    while bitmap:
        skip = (bitmap & -bitmap).bit_length() - 1
        bitmap >>= skip
        first = at + skip
        length = (~bitmap & bitmap + 1).bit_length() - 1
        bitmap >>= length
        at = first + length
        parts.append(str(first) if length == 1 else f"{first}-{at - 1}")
    return ",".join(parts)


def bitmap_print_to_pagebuf(bitmap: int, nbits: int, *, as_list: bool = False) -> str:
    """
    One of the two formats and a newline, cut to what fits a page with its NUL.

    C: ``int bitmap_print_to_pagebuf(bool list, char *buf, const unsigned long *maskp, int nmaskbits)``
    """
    text = bitmap_list_string(bitmap, nbits) if as_list else bitmap_string(bitmap, nbits)
    return (text + "\n")[: PAGE_SIZE - 1]


def _end_of_region(c: str) -> bool:
    return isspace(c) or c == ","


def bitmap_parse(s: str, nbits: int) -> int:
    """
    The mask form to a bitmap: chunks of 32 bits, the last one lowest. Commas and blanks around chunks do not matter,
    an empty text is 0, a newline ends it.

    C: ``int bitmap_parse(const char *buf, unsigned int buflen, unsigned long *maskp, int nmaskbits)``

    Raises:
        OSError: EINVAL, not a hexadecimal digit; EOVERFLOW, over 8 digits in a chunk, or more than *nbits*.
    """
    s = s.partition("\n")[0]
    end = len(s)
    bitmap = 0
    left = (nbits + 31) // 32
    at = 0
    while True:
        while end and _end_of_region(s[end - 1]):
            end -= 1
        if not end:
            break
        if at == left * 32:
            raise err(EOVERFLOW, f"{s!r} has more than {left} chunks")
        chunk, end = _get_x32_reverse(s, end)
        bitmap |= chunk << at
        at += 32
    if bitmap >> nbits:
        raise err(EOVERFLOW, f"{s!r} has more than {nbits} bits")
    return bitmap


def _get_x32_reverse(s: str, end: int) -> tuple[int, int]:
    """The chunk that ends before *end*, and where it starts. C: ``bitmap_get_x32_reverse()``."""
    chunk = 0
    for shift in range(0, 32, 4):
        end -= 1
        if not isxdigit(s[end]):
            raise err(EINVAL, f"{s[end]!r} is not a hexadecimal digit")
        chunk |= int(s[end], 16) << shift
        if not end or _end_of_region(s[end - 1]):
            return chunk, end
    end -= 1
    if isxdigit(s[end]):
        raise err(EOVERFLOW, f"more than 8 digits in a chunk of {s!r}")
    # The C code never looks again at the character that it tried as a ninth digit: "x12345678" is accepted.
    return chunk, end


@dataclass
class _Region:
    """``start-end:off/group_len``. C: ``struct region``, all unsigned int."""

    start: int = 0
    end: int = 0
    off: int = 0
    group_len: int = 0

    def check(self, nbits: int) -> None:
        # lib/bitmap.c:bitmap_check_region()
        if self.start > self.end or self.group_len == 0 or self.off > self.group_len:
            raise err(EINVAL, f"not a region: {self}")
        if self.end >= nbits:
            raise err(ERANGE, f"{self} is above {nbits} bits")

    def bits(self) -> int:
        # lib/bitmap.c:bitmap_set_region(); start is 32 bits wide and may wrap
        bitmap = 0
        start = self.start
        while start <= self.end:
            bitmap |= (1 << min(self.end - start + 1, self.off)) - 1 << start
            start = start + self.group_len & U32_MAX
        return bitmap


def bitmap_parselist(s: str, nbits: int) -> int:
    """
    The list form to a bitmap: "0,2-9", "N" for the last bit, "all", and ``range:used/group`` ("0-31:1/4").

    C: ``int bitmap_parselist(const char *buf, unsigned long *maskp, int nmaskbits)``

    Raises:
        OSError: EINVAL, not a region; ERANGE, a bit above *nbits*; EOVERFLOW, a number above 32 bits.
    """
    # lib/bitmap.c:bitmap_parselist()
    bitmap = 0
    pos = 0
    while True:
        while pos < len(s) and _end_of_region(s[pos]):
            pos += 1
        if pos == len(s):
            return bitmap
        region, pos = _parse_region(s, pos, nbits - 1 & U32_MAX)
        region.check(nbits)
        bitmap |= region.bits()


def _parse_region(s: str, pos: int, last: int) -> tuple[_Region, int]:
    # lib/bitmap.c:bitmap_parse_region()
    region = _Region()
    if s[pos : pos + 3].lower() == "all":
        region.end = last
        pos += 3
    else:
        region.start, pos = _getnum(s, pos, last)
        region.end = region.start
        if s[pos : pos + 1] == "-":
            region.end, pos = _getnum(s, pos + 1, last)
        elif not _at_end(s, pos):
            raise err(EINVAL, f"{s[pos]!r} in {s!r} is neither '-' nor the end of a region")
    if _at_end(s, pos):
        region.off = region.group_len = region.end + 1 & U32_MAX
        # A newline right behind a region without a pattern ends the list; elsewhere it is a blank like others.
        return region, len(s) if s[pos : pos + 1] == "\n" else pos
    region.off, pos = _getnum(s, _expect(":", s, pos), last)
    region.group_len, pos = _getnum(s, _expect("/", s, pos), last)
    return region, pos


def _at_end(s: str, pos: int) -> bool:
    return pos == len(s) or _end_of_region(s[pos])


def _expect(c: str, s: str, pos: int) -> int:
    if s[pos : pos + 1] != c:
        raise err(EINVAL, f"no {c!r} at {pos} of {s!r}")
    return pos + 1


def _getnum(s: str, pos: int, last: int) -> tuple[int, int]:
    # lib/bitmap.c:bitmap_getnum()
    if s[pos : pos + 1] == "N":
        return last, pos + 1
    value, end = parse_integer(s, 10, pos)
    if end == pos:
        raise err(EINVAL, f"no number at {pos} of {s!r}")
    if value > U32_MAX:
        raise err(EOVERFLOW, f"{value} does not fit into 32 bits")
    return value, end
