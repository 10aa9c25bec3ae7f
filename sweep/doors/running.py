"""`run_sweep(...)`: a sweep from Python, in a process of its own.

What a sweep does to its process would spoil a notebook's: signal handlers, umask, Ray, memory of
the GPU, and an end at once where Ray dies. So it runs in another, in a session without a terminal,
which ends gracefully when it is told to, or when this process is gone.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweep.common.errors import SweepError
from sweep.conduct.ordered import Order, order_of
from sweep.config.fixed import without_fixed
from sweep.config.sweep import SweepConfig
from sweep.doors.loaded import Sweep, load_sweep
from sweep.record.folder import find_sweep, read_sweep
from trainable.common.errors import CheckpointError, ConfigError, DataError, UserError
from trainable.common.paths import PACKAGE_PARENT, config_file
from trainable.config.explain import validate
from trainable.config.yaml_file import read_yaml

SHIPPED = "sweep.yaml"

_CODE = "import sys; from sweep.doors.child import main; sys.exit(main(int(sys.argv[1])))"

_ERRORS = {kind.__name__: kind for kind in (ConfigError, DataError, CheckpointError, SweepError)}


def run_sweep(
    config: SweepConfig | Mapping[str, Any] | str | Path | None = None,
    *,
    resume: str | Path | None = None,
    verify_data: bool = False,
    ray_address: str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Sweep:
    """Run a sweep to its end, or go on with one, and return it: as `sweep/run.py` does.

    It prints what the command prints. It can be called from any thread, any number of times. An
    interrupt (Ctrl-C, a notebook's stop button) ends it gracefully and is raised once its trials
    are saved; a second one ends it at once. What another process stops is returned as it is then.

    Args:
        config: a SweepConfig, its values as a mapping, or a YAML file, yours or a shipped one;
            None: the default, sweep.yaml.
        resume: name or folder of a sweep to go on with, instead of `config`.
        verify_data: read every byte of the token files, even if they look unchanged.
        ray_address: of the Ray cluster to run on; None: RAY_ADDRESS, or a Ray of its own.
        quiet: print nothing.
        settings: replace those of `config`; a mapping replaces only what it names, and
            `**{"trial.optim.lr": 3e-3}` fixes a searched field, as the flag does.

    Raises:
        ConfigError, DataError, SweepError: it was refused, with what to do.
        KeyboardInterrupt: it was interrupted; `run_sweep(resume=NAME)` goes on.
    """
    name = None
    if resume is not None:
        if config is not None:
            raise ConfigError("config: a resumed sweep has its config; leave one of them out")
        folder = find_sweep(str(resume))
        name, config = folder.name, read_sweep(folder).config
    resolved = _resolved(config, settings)
    order = order_of(resolved, name, verify_data=verify_data, ray_address=ray_address)
    return load_sweep(_Child(order, name, quiet).run())


def _resolved(
    config: SweepConfig | Mapping[str, Any] | str | Path | None, settings: Mapping[str, Any]
) -> SweepConfig:
    """Return the settings of a sweep; `settings` replace those of `config`."""
    source = "run_sweep"
    if isinstance(config, SweepConfig):
        values = config.model_dump(by_alias=True, exclude_none=True)
    elif isinstance(config, Mapping):
        values = _copied(config)
    else:
        path = config_file(str(config or SHIPPED))
        source, values = str(path), read_yaml(path)
    fixed: set[str] = set()
    for name, value in settings.items():
        _put(values, name.split("."), value, [], fixed)
    return validate(SweepConfig, without_fixed(values, fixed), source)


def _put(tree: Any, path: list[str], value: Any, above: list[str], fixed: set[str]) -> None:
    """Put a setting into a tree of them; note the fields of the trial that it fixes."""
    name, *rest = path
    here = [*above, name]
    if not isinstance(tree, dict):
        raise ConfigError(f"{'.'.join(here)}: {'.'.join(above)} is one setting, and has no parts")
    if rest:
        _put(tree.setdefault(name, {}), rest, value, here, fixed)
    elif isinstance(value, Mapping) and here != ["space"]:  # a space is one setting
        for inner, its in value.items():
            _put(tree.setdefault(name, {}), inner.split("."), its, here, fixed)
    else:
        tree[name] = value
        if here[0] == "trial":
            fixed.add(".".join(here[1:]))


def _copied(value: Any) -> Any:
    """Return a tree of mappings as one of dicts of its own."""
    return {k: _copied(v) for k, v in value.items()} if isinstance(value, Mapping) else value


class _Child:
    """The process in which a sweep runs.

    Args:
        order: what child.py reads.
        name: of the sweep, where it has one already.
        quiet: print nothing of what it prints.
    """

    def __init__(self, order: Order, name: str | None, quiet: bool) -> None:
        self._order = order
        self._name = name
        self._quiet = quiet
        self._last_line = ""

    def run(self) -> str:
        """Run it to its end; return the sweep's name.

        Raises:
            UserError, KeyboardInterrupt: as run_sweep.
        """
        hears, tells = os.pipe()
        # In a terminal it draws by itself; a notebook's output is this process's alone.
        draws = not self._quiet and _is_terminal()
        paths = [str(PACKAGE_PARENT), os.environ.get("PYTHONPATH", "")]
        with open(hears, encoding="utf-8") as report:
            try:
                process = subprocess.Popen(  # noqa: S603 - fixed words, no shell
                    [sys.executable, "-c", _CODE, str(tells)],
                    stdin=subprocess.PIPE,
                    stdout=None if draws else subprocess.PIPE,
                    stderr=None if draws else subprocess.STDOUT,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
                    pass_fds=(tells,),
                    start_new_session=True,
                )
            finally:
                os.close(tells)
            interrupted = self._attend(process)
            told = [json.loads(line) for line in report]
        return self._result(told, process.returncode, interrupted)

    def _attend(self, process: subprocess.Popen[bytes]) -> bool:
        """Show what the process prints, to its end; say whether it was interrupted from here."""
        assert process.stdin is not None
        interrupted = False
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended: its status tells
                process.stdin.write(json.dumps(self._order).encode() + b"\n")
                process.stdin.flush()
            while process.returncode is None:
                try:
                    for line in process.stdout or ():
                        self._show(line.decode(errors="replace"))
                    process.wait()
                except KeyboardInterrupt:
                    interrupted = True
                    process.send_signal(signal.SIGINT)
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # if something else ended this: the process ends, too
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        return interrupted

    def _show(self, line: str) -> None:
        self._last_line = line.strip() or self._last_line
        if not self._quiet:
            print(line, end="", flush=True)

    def _result(self, told: list[dict[str, Any]], status: int, interrupted: bool) -> str:
        for message in told:
            self._name = message.get("name", self._name)
            if "error" in message:
                kind = next((_ERRORS[k] for k in message["error"] if k in _ERRORS), UserError)
                raise kind(message["text"])
        if interrupted:
            raise KeyboardInterrupt
        if self._name is None or not any("status" in message for message in told):
            how = f"signal {-status}" if status < 0 else f"status {status}"
            begun = f"; go on with run_sweep(resume={self._name!r})" if self._name else ""
            why = f": {self._last_line}" if self._last_line else ""
            raise SweepError(
                f"sweep {self._name or '(not begun)'}: its process ended with {how}{why}{begun}"
            )
        return self._name


def _is_terminal() -> bool:
    """Say whether Python's standard output is this process's own, and a terminal."""
    try:
        return sys.stdout.isatty() and sys.stdout.fileno() == 1
    except (AttributeError, OSError, ValueError):  # replaced by something that is no file
        return False
