"""What several commands share: the options that say which machine and kernel, and the boot that obeys them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from pykernel.lib.outside import is_path

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["Fail", "Setup", "TraceFile", "machine_options", "trace_to"]

F = TypeVar("F", bound=Callable[..., Any])


class Fail(click.ClickException):
    """A sentence for stderr and the exit status that goes with it."""

    def __init__(self, sentence: str, status: int = 1) -> None:
        super().__init__(sentence)
        self.exit_code = status  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class Setup:
    """The machine and the kernel that the options ask for."""

    machine: str = "full"
    profile: str = "linux-6.1"
    config: tuple[str, ...] = ()
    modprobe: tuple[str, ...] = ()

    def boot(self, *, clock: str = "virtual") -> Kernel:
        """Start the kernel. Raises Fail."""
        import pykernel
        from pykernel import machine as machines

        try:
            spec = machines.load(self.machine)
            spec = replace(spec, modules=self._modules(spec.modules))
            config = [_config(name) for name in self.config]
            return pykernel.boot(spec, self.profile, config=config, clock=clock)
        except ValueError as e:  # MachineError, an unknown profile or option
            raise Fail(str(e)) from e

    def _modules(self, of_machine: dict[str, str]) -> dict[str, str]:
        """What to load: the machine's and ours, which win. Raises Fail, ValueError: no such profile or file."""
        from pykernel.machine import check_module, module_name
        from pykernel.profile import get

        modules = dict(of_machine)
        names = {module_name(key): key for key in modules}  # a machine may load by path what the option names
        for row in self.modprobe:
            name, *args = row.split(None, 1)[:2] or [""]
            if not name:
                raise Fail(f"--modprobe {row!r}: give the name of a module, and its parameters")
            plain = module_name(name)
            key = str(Path(name).absolute()) if is_path(name) else names.get(plain, plain)
            old = names.get(plain, key)
            modules = {key if k == old else k: v for k, v in modules.items()} | {key: "".join(args)}
            names[plain] = key
        enable = get(self.profile).kstrtobool_enable
        for name, text in modules.items():
            try:
                check_module(name, text, e=enable)
            except ValueError as e:
                raise Fail(str(e) if str(e).startswith(name) else f"module {name}: {e}") from e
        return modules


def _config(row: str) -> str:
    # CONFIG_X and CONFIG_X=y set, -CONFIG_X and CONFIG_X=n unset
    name, _, value = row.partition("=")
    if not name or value not in ("", "y", "m", "n"):
        raise Fail(f"--config {row!r}: give CONFIG_NAME to set it, or CONFIG_NAME=n to unset it")
    return f"-{name}" if value == "n" else name


def machine_options(command: F) -> F:
    """The options --machine, --profile, --config and --modprobe, given to the command as one Setup."""
    import functools

    @click.option("-m", "--machine", default="full", metavar="NAME|FILE", show_default=True,
                  help="A built-in machine, your own, a recorded one, or a dump of umockdev-record.")  # fmt: skip
    @click.option("-p", "--profile", default="linux-6.1", metavar="NAME", show_default=True,
                  help="Which kernel: linux-6.1, linux-6.12, linux-7.2.")  # fmt: skip
    @click.option("--config", multiple=True, metavar="CONFIG_X[=n]", help="Set or unset a configuration option.")
    @click.option("--modprobe", multiple=True, metavar='"NAME|FILE.py ARGS"',
                  help='Load a module, with parameters: --modprobe "idxd sva=0", --modprobe ./mydrv.py.')  # fmt: skip
    @functools.wraps(command)
    def with_setup(
        *args: Any, machine: str, profile: str, config: Iterable[str], modprobe: Iterable[str], **kw: Any
    ) -> Any:
        return command(*args, setup=Setup(machine, profile, tuple(config), tuple(modprobe)), **kw)

    return with_setup  # type: ignore[return-value]


def trace_to(kernel: Kernel, out: IO[str]) -> None:
    """Write every event of *kernel* to *out* as one line of JSON."""
    from json import dumps

    def listener(event: Any) -> None:
        row = {"time_ns": event.time_ns, "task": event.task, "name": event.name, "fields": event.fields}
        out.write(dumps(row, default=_plain) + "\n")

    kernel.trace.listeners.append(listener)


class TraceFile:
    """A file that gets the trace of *kernel*; - is stderr. Raises Fail: it cannot be written."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel, self.name = kernel, name
        try:
            # stderr by its number: what fails here must not stay in the buffer of sys.stderr
            self.out = open(name, "w") if name != "-" else open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        except OSError as e:
            raise Fail(f"{name}: {e.strerror}") from e
        trace_to(kernel, self.out)

    def close(self) -> list[str]:
        """Write what is left; why events were lost, if they were: a sentence."""
        errors = [*self.kernel.trace.broken]
        try:
            self.out.close()
        except OSError as e:
            errors.append(e)
        if not errors:
            return []
        first = errors[0]
        return [f"{self.name}: {first.strerror if isinstance(first, OSError) else first}; the trace is incomplete"]


def _plain(value: Any) -> Any:
    return bytes(value).decode("latin-1") if isinstance(value, bytes | bytearray | memoryview) else str(value)
