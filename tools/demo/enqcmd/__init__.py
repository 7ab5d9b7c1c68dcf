"""
``pykernel demo enqcmd``: the last slide of "Scalable Work Submission in Device Virtualization", as it happens.

A process of a virtual machine submits one copy to a queue that it shares with others. Each step shows who acts and
with which values; ``--break`` takes one away in the running machine and shows what comes of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pykernel.tools.options import Fail, TraceFile, trace_to

if TYPE_CHECKING:
    from pykernel.tools.demo.enqcmd.print import Printer
    from pykernel.tools.demo.enqcmd.scene import Scene

__all__ = ["command"]


@click.command()
@click.option("-p", "--profile", default="linux-6.1", metavar="NAME", show_default=True, help="Which kernel.")
@click.option("--vcpus", default=1, show_default=True, type=click.IntRange(1, 16), help="Virtual processors.")
@click.option("--seed", default=1, show_default=True, help="Of the machine's randomness.")
@click.option("--break", "broken", metavar="STEP", help="Take a step's mechanism away, and see; --list has the names.")
@click.option("--list", "listed", is_flag=True, help="What can be taken away.")
@click.option(
    "--trace", metavar="FILE", help="Write both kernels' events from the command on there, as JSON lines; - is stderr."
)
def command(profile: str, vcpus: int, seed: int, broken: str | None, listed: bool, trace: str | None) -> None:
    """
    Follow one ENQCMD from a process of a guest to the device, through both stages of memory, and back.

    \b
    Examples:
      pykernel demo enqcmd
      pykernel demo enqcmd --list
      pykernel demo enqcmd --break control
    """
    from rich.console import Console

    from pykernel.tools.demo.enqcmd.breaks import BREAKS
    from pykernel.tools.demo.enqcmd.print import Printer
    from pykernel.tools.demo.enqcmd.scene import Scene

    if broken is not None and broken not in BREAKS:
        raise Fail(f"--break {broken}: there is no such step; there are {', '.join(BREAKS)}")
    to = Printer(Console(highlight=False))
    if listed:
        _list(to)
        return
    try:
        scene = Scene(profile, vcpus=vcpus, seed=seed)
    except ValueError as e:  # an unknown profile
        raise Fail(str(e)) from e
    record = None if trace is None else TraceFile(scene.host, trace)
    lost: list[str] = []
    try:
        if record is not None:
            trace_to(scene.guest, record.out)
        if broken is None:
            _tell(scene, to)
        else:
            _break(scene, to, broken)
        scene.close()
    finally:
        lost += record.close() if record is not None else []
    if lost:
        raise Fail(lost[0])


def _list(to: Printer) -> None:
    from pykernel.tools.demo.enqcmd.breaks import BREAKS
    from pykernel.tools.demo.enqcmd.story import STEPS

    for number, (title, _) in STEPS.items():
        rows = [(name, row.missing) for name, row in BREAKS.items() if row.step == number]
        if rows:
            to.title(f"{number}  {title}")
            to.rows(rows, width=max(map(len, BREAKS)))


def _tell(scene: Scene, to: Printer) -> None:
    """All steps, then the drawing."""
    from pykernel.tools.demo.enqcmd.breaks import BREAKS
    from pykernel.tools.demo.enqcmd.story import STEPS, Story

    before = scene.msr()
    story = Story(scene, scene.submission(), before)
    to.text("A process in a virtual machine submits work to a queue that others share.", "bold")
    to.title("0  What stands before")
    to.rows(story.setup())
    for number, (title, by) in STEPS.items():
        to.title(f"{number}  {title}", by)
        to.rows(story.step(number))
        for name, row in BREAKS.items():
            if row.step == number:
                to.wrapped("--break", f"{name}: {row.missing}. {row.lesson}", "yellow")
    to.title("The path of the destination's address")
    to.drawing(story.path())
    to.title("The same bytes by three addresses")
    to.dump(story.bytes_seen())


def _break(scene: Scene, to: Printer, name: str) -> None:
    """What is different when a step is missing."""
    from pykernel.tools.demo.enqcmd.breaks import BREAKS
    from pykernel.tools.demo.enqcmd.report import observed
    from pykernel.tools.demo.enqcmd.story import STEPS

    row = BREAKS[name]
    title, by = STEPS[row.step]
    to.text(f"{row.step}  {title}, when {row.missing}", "bold")
    to.text(f"   by {by}", "dim")
    numbers = f"gPASID {scene.gpasid}, hPASID {scene.hpasid}; the host's tenant: {scene.tenant_pasid}"
    to.rows([("PASIDs", f"guest's process: {numbers}")])
    before = scene.tenant_bytes()
    for act in row.acts(scene):
        to.title(f"-> {act.did}")
        to.rows([*observed(scene, act.outcome), *act.more])
    after = scene.tenant_bytes()
    to.title("What that shows")
    if after != before:
        to.rows([("tenant", f"the host process's destination was {before[:12]!r}..., is {after[:12]!r}...")])
    to.wrapped("", row.lesson, "yellow")
