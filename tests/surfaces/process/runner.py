"""``runner.py [--as USER] PROGRAM ARGS``: the toy machine on the process surface, as the command line would run it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from toy_tree import ToyFiles, toy_kernel  # type: ignore[import-not-found]  # beside us on sys.path only

from pykernel.surfaces.process import RunError, run


def main(args: list[str]) -> int:
    as_user = None
    if args[0] == "--as":
        as_user, args = args[1], args[2:]
    kernel, toy = toy_kernel()
    try:
        status = run(kernel, args, as_user=as_user)
    except RunError as e:
        print(f"pykernel run: {e}", file=sys.stderr)
        return e.status
    print("".join(f"store {s!r}\n" for s in toy.stores), end="", file=sys.stderr)
    for oops in kernel.oopses:
        print(f"oops {oops!r}", file=sys.stderr)
    left = kernel.sub(ToyFiles).live
    if left:
        print(f"still open: {left}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
