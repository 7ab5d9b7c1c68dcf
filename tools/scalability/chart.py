"""What the experiment found, for the eye: a table and bars on the terminal, a figure in a file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pykernel.tools.scalability.kinds import KINDS

if TYPE_CHECKING:
    from rich.table import Table

    from pykernel.tools.scalability.experiment import Row

__all__ = ["bars", "plot", "table"]

WIDTH = 40  # of a bar that is everybody
EIGHTHS = " ▏▎▍▌▋▊▉"
COLUMNS = (
    "clients", "served", "refused", "copies", "retries\na copy", "gave\nup", "waiting\nmean", "\nmost", "Jain\nall",
    "\nserved", "set-up\ncalls", "\nms",
)  # fmt: skip
PANELS = (  # what, of a row, log scale
    ("clients served", "served", True),
    ("Jain's index over all clients", "fairness", False),
    ("retries for each accepted descriptor", "retried", False),
)
STYLES = {"vf": "s-", "1dwq": "^-", "swq": "o-", "1swq": "D--"}


def table(rows: Sequence[Row]) -> Table:
    """A line for each kind and number of clients."""
    from rich.table import Table

    made = Table("queue", box=None, pad_edge=False)
    for head in COLUMNS:
        made.add_column(head, justify="right")
    last = ""
    for row in rows:
        if last not in ("", row.kind):
            made.add_row()
        made.add_row(row.kind if row.kind != last else "", *_cells(row))
        last = row.kind
    return made


def _cells(row: Row) -> list[str]:
    style = "green" if row.served == row.clients else "bold red"
    refused = " ".join(row.refused)
    return [
        f"{row.clients:,}",
        f"[{style}]{row.served:,}[/]",
        refused,
        f"{row.done:,}",
        f"{row.retried:.2f}",
        f"{row.gave_up:,}",
        f"{row.mean:.1f}",
        f"{row.most}/{row.entries}",
        f"{row.fairness:.3f}",
        f"{row.fairness_served:.3f}",
        f"{row.calls:,.0f}",
        f"{row.setup_ms:.1f}",
    ]


def bars(rows: Sequence[Row]) -> list[str]:
    """How many of the clients were served, as lines of text with the markup of rich."""
    lines = []
    wide = max(len(KINDS[row.kind].title) for row in rows)
    for clients in sorted({row.clients for row in rows}):
        lines.append(f"[bold]{clients:,} client{'s' * (clients > 1)}[/]")
        for row in rows:
            if row.clients == clients:
                title = KINDS[row.kind].title.ljust(wide)
                lines.append(f"  {title}  {_bar(row.served / clients)} {row.served:,}")
    return lines


def _bar(part: float) -> str:
    """*part* of the whole width, in eighths of a character, at least one of them unless it is nothing."""
    eighths = max(round(part * WIDTH * 8), part > 0)
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()).ljust(WIDTH)


def plot(rows: Sequence[Row], file: str) -> None:
    """
    Draw *rows* into *file*.

    Raises:
        ValueError: matplotlib is not installed, or cannot write such a file.
        OSError: the file cannot be written.
    """
    pyplot = load()
    pyplot.switch_backend("agg")
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(12, 3.8), layout="constrained")
    numbers = sorted({row.clients for row in rows})
    for axis, (title, attr, log) in zip(axes, PANELS, strict=True):
        for kind in dict.fromkeys(row.kind for row in rows):
            mine = [row for row in rows if row.kind == kind]
            values = [getattr(row, attr) for row in mine]
            axis.plot([row.clients for row in mine], values, STYLES[kind], label=KINDS[kind].title)
        axis.set(xlabel="clients", title=title, xscale="log", yscale="log" if log else "linear")
        axis.set_xticks(numbers, [f"{n:,}" for n in numbers])
        if not log:
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(file, dpi=80)
    pyplot.close(figure)


def load() -> Any:
    """matplotlib.pyplot. Raises ValueError: it is not installed."""
    try:
        return import_module("matplotlib.pyplot")
    except ImportError as e:
        raise ValueError("a plot needs matplotlib, which is not installed: pip install 'pykernel-mock[bench]'") from e
