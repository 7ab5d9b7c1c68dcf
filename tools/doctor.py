"""``pykernel doctor``: what this host allows, what works then, and what to do about the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pykernel.surfaces.process.doctor import Finding

__all__ = ["CURES", "command", "verdict"]

# what to do where a probe says no, and something can be done
CURES = {
    "user namespaces": "run as root; or sysctl user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1, "
    "and on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0",
    "/dev/fuse": "modprobe fuse, and let users open it: chmod 666 /dev/fuse; in a container: --device /dev/fuse",
    "FUSE mount": "in a container: --cap-add SYS_ADMIN --security-opt apparmor=unconfined",
    "/proc mount": "in a container: --security-opt systempaths=unconfined",
    "ptrace": "sysctl kernel.yama.ptrace_scope=1",
}
NEEDED = ("/dev/fuse", "FUSE mount")
ONE_OF = ("privilege", "user namespaces")


def verdict(findings: Sequence[Finding]) -> str:
    """Why ``pykernel run`` cannot work here; empty when it can."""
    ok = {f.what for f in findings if f.ok}
    lacking = [what for what in NEEDED if what not in ok]
    if not ok & set(ONE_OF):
        lacking.insert(0, " or ".join(ONE_OF))
    return ", ".join(lacking)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """
    Tell whether this host allows to run programs, and how to make it so.

    The exit status is 0 when `pykernel run` can work here. The other surfaces (kernel.process(), kernel.patched()) need
    nothing of the host.
    """
    from pykernel.surfaces.process.doctor import diagnose

    findings = diagnose()
    lacking = verdict(findings)
    if as_json:
        for finding in findings:
            click.echo(json.dumps(asdict(finding)))
    else:
        _draw(findings, lacking)
    ctx.exit(1 if lacking else 0)


def _draw(findings: Sequence[Finding], lacking: str) -> None:
    from rich.console import Console
    from rich.table import Table

    say = Console(highlight=False)
    table = Table("", "what", "here", "needed for", box=None, pad_edge=False)
    for f in findings:
        table.add_row("[green]yes" if f.ok else "[yellow]no", f.what, f.detail, f.then)
    say.print(table)
    say.print()
    for f in findings:
        if not f.ok and f.what in CURES:
            say.print(f"{f.what}: {CURES[f.what]}")
    say.print(
        f"[bold red]pykernel run cannot work here: {lacking}" if lacking else "[bold green]pykernel run works here"
    )
