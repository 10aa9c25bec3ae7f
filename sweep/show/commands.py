"""What to type next, ready to paste in the folder the user stands in."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord
from trainable.common.paths import PACKAGE_PARENT, config_file, project_folder
from trainable.config.explain import validate
from trainable.config.trial import TrialConfig
from trainable.config.yaml_file import read_yaml


def next_commands(name: str, num_samples: int) -> dict[str, str]:
    """Return what to type next, ready to paste in the folder the user stands in."""
    run = command("sweep", "run")
    best = shlex.quote(shown_path(project_folder() / "results" / name / "best"))
    return {
        "best": f"{command('sweep', 'best')} {name}",
        "generate": f'{command("trainable", "generate")} {best} --prompt "def "',
        "follow": f"{command('sweep', 'status')} {name} --follow",
        "stop": f"{command('sweep', 'status')} {name} --stop",
        "resume": f"{run} --resume {name} --num-samples {num_samples}",
        "extend": f"{run} --resume {name} --num-samples {2 * num_samples}",
        "mlflow": mlflow_command(),
        "report": f"{command('sweep', 'report')} {name}",
    }


def setting_flags(config: TrialConfig, searched: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Return how `local.py` is told a trial's settings, so that it gives the same numbers.

    Returns:
        The flags of all settings that are not searched and not local.py's default; and the flag of
        each searched field, whose value follows it.
    """
    default = validate(TrialConfig, read_yaml(config_file("trial.yaml")), "trial.yaml")
    flags = []
    for section, fields in config.model_dump().items():
        for field, value in fields.items():
            name = f"{section}.{field}"
            if name not in searched and value != getattr(getattr(default, section), field):
                flags.append(_flag(name, value))
    return " ".join(flags), {name: _flag_name(name) for name in searched}


def own_settings(config: SweepConfig, params: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a trial that follow from its size; none where all have equal steps."""
    if not config.by_flops:
        return {}
    train = config.trial_config(params).train
    return {"train.steps": train.steps, "train.eval_every": train.eval_every}


def replay_flags(config: SweepConfig) -> tuple[str, dict[str, str]]:
    """Return setting_flags of a sweep's trials; what follows from the size counts as searched."""
    return setting_flags(config.trial_config({}), [*config.space, *own_settings(config, {})])


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        section, _, field = _flag_name(name).rpartition(".")
        return f"{section}.{field}" if value else f"{section}.no-{field}"
    return f"{_flag_name(name)} {shlex.quote(str(value))}"


def _flag_name(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def resume_command(name: str, config: SweepConfig, record: SweepRecord) -> str:
    """Return how to go on with a sweep that is not complete: out of time, with twice the time."""
    resume = f"{command('sweep', 'run')} --resume {name}"
    if record.ended_by != "time_budget" or config.time_budget is None:
        return resume
    number, unit = config.time_budget[:-1], config.time_budget[-1]
    return f"{resume} --time-budget {2 * float(number):g}{unit}"


def command(package: str, module: str) -> str:
    """Return how to call one of our commands from here with this Python."""
    script = PACKAGE_PARENT / package / f"{module}.py"
    in_checkout = (PACKAGE_PARENT / "pyproject.toml").is_file()
    target = shlex.quote(shown_path(script)) if in_checkout else f"-m {package}.{module}"
    return f"{_python()} {target}"


def mlflow_command() -> str:
    """Return how to open MLflow's pages on the project's store."""
    here = Path.cwd() == project_folder()
    mlflow = shlex.quote(str(Path(sys.executable).parent / "mlflow"))
    if shutil.which("mlflow") == str(Path(sys.executable).parent / "mlflow"):
        mlflow = "mlflow"
    return f"{mlflow} ui" if here else f"(cd {shlex.quote(str(project_folder()))} && {mlflow} ui)"


def shown_path(path: Path | str) -> str:
    """Return a path below the working folder relative to it, any other, or an address, in full."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _python() -> str:
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found and os.path.dirname(found) == os.path.dirname(sys.executable):
            return name
    return shlex.quote(shown_path(Path(sys.executable)))
