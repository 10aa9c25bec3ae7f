"""The main job: `python sweep/run.py --num-samples 32` runs a sweep, or resumes one."""

import sys
from pathlib import Path
from typing import Any, Literal

if __package__ in (None, ""):  # run as a file: the path starts at this folder, not the project
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from sweep.conduct.detach import Begun, run_detached, show_begun
from sweep.config.fixed import without_fixed
from sweep.config.sweep import SweepConfig
from sweep.record.folder import find_sweep, read_sweep
from trainable.common.command import run_command
from trainable.common.errors import ConfigError
from trainable.common.paths import config_file
from trainable.config.explain import validate
from trainable.config.flags import parse_flags, pop_option, pop_output
from trainable.config.yaml_file import read_yaml

SHIPPED = "sweep.yaml"
SWITCHES = ("--dry-run", "--verify-data")
ABOUT = """Search learning rates and model sizes; record in MLflow; keep the best checkpoint.

--config FILE: your YAML file, or a shipped one (smoke.yaml: four tiny trials). Only there: space,
start_points, and resources by size, e.g. {model.d_model >= 512: {gpus: 1}}.
--resume NAME: go on with a sweep, after any interruption, or with a larger --num-samples. It trusts
the JSON in results/NAME, which must be yours alone to write, checks checkpoints, loads no pickle.
--warm-start NAME,NAME: begin with what the trials of older sweeps on the same tokens tell.
--detach: go on without this terminal, and return once the first trials have begun; --detach head:
without this machine, on the head of the cluster.
--dry-run: print the plan only.
--json: print one JSON document to standard output, and what happens meanwhile to standard error.
--quiet: print only the result and errors.
--verify-data: read every byte of the token files, even if their size and time are as before.
--ray-address HOST:PORT: run the trials on a Ray cluster that this machine is a node of; auto: on
the one that runs here; local, or neither this nor RAY_ADDRESS: on a Ray of its own."""


def main(argv: list[str]) -> int:
    """Run the command."""
    dry_run, verify_data = (word in argv for word in SWITCHES)
    detach, argv = _pop_detach(argv)
    if dry_run and detach:
        raise ConfigError("--detach: a dry run ends at once; leave one of them out")
    output, flags = pop_output([word for word in argv if word not in SWITCHES])
    if detach and not output.is_for_people:
        raise ConfigError(
            "--detach: the result goes to no terminal; leave --json and --quiet out, and ask "
            "status.py NAME --json for it"
        )
    name, flags = pop_option(flags, "--resume")
    path, flags = pop_option(flags, "--config")
    older, flags = pop_option(flags, "--warm-start")
    ray_address, flags = pop_option(flags, "--ray-address")
    options: dict[str, Any] = {
        **{"dry_run": dry_run, "verify_data": verify_data},
        **{"ray_address": ray_address, "output": output},
    }
    if name is not None:
        if path is not None:
            raise ConfigError("--config: a resumed sweep has its config; leave one of them out")
        if older is not None:
            raise ConfigError(
                "--warm-start: a resumed sweep knows what it began with; leave it out"
            )
        folder = find_sweep(name)
        name, stored = folder.name, read_sweep(folder)
        config = parse_flags(SweepConfig, stored.config, flags, "run.py", ABOUT)

        def run(begun: Begun | None = None) -> int:
            # torch takes seconds to import: not for --help
            from sweep.conduct.resume import resume_sweep

            return resume_sweep(folder, stored, config, begun=begun, **options)
    else:
        source = config_file(path or SHIPPED)
        given = without_fixed(read_yaml(source), _fixed(flags))
        default = validate(SweepConfig, given, str(source))
        if older is not None:
            begin_with = {"warm_start": older.replace(",", " ").split()}
            search = default.search.model_copy(update=begin_with)
            default = default.model_copy(update={"search": search})
        config = parse_flags(SweepConfig, default, flags, "run.py", ABOUT)

        def run(begun: Begun | None = None) -> int:
            from sweep.conduct.start import start_sweep

            return start_sweep(config, begun=begun, **options)

    if detach == "head":
        from sweep.conduct.head import run_on_head

        return run_on_head(config, name, verify_data=verify_data, ray_address=ray_address)
    if detach:
        samples = config.num_samples
        return run_detached(run, lambda log, pid: show_begun(log, f"process {pid}", samples))
    return run()


def _pop_detach(argv: list[str]) -> tuple[Literal["here", "head"] | None, list[str]]:
    """Return where `--detach` lets the driver go on, or None, and the other arguments."""
    if "--detach=head" in argv:
        return "head", [word for word in argv if word != "--detach=head"]
    if "--detach" not in argv:
        return None, argv
    before, behind = argv[: argv.index("--detach")], argv[argv.index("--detach") + 1 :]
    if behind[:1] == ["head"]:
        return "head", before + behind[1:]
    return "here", before + behind


def _fixed(flags: list[str]) -> set[str]:
    """Return the fields of the trial that flags set, e.g. optim.lr for `--trial.optim.lr 3e-4`."""
    names = {word.partition("=")[0].replace("-", "_") for word in flags if word.startswith("--")}
    fixed = {name.removeprefix("__trial.") for name in names if name.startswith("__trial.")}
    return fixed | {name.replace(".no_", ".") for name in fixed}  # a switch: --trial.model.no-x


def cli() -> None:
    """Run the command as a program."""
    run_command(main)


if __name__ == "__main__":
    cli()
