"""Where the project's data, results and configs live, whatever the working folder is."""

import os
from pathlib import Path

PACKAGE_PARENT = Path(__file__).resolve().parents[2]
"""The checkout, or site-packages when installed from a wheel."""


def project_folder() -> Path:
    """Return the folder that holds `data/`, `results/` and `mlflow.db`.

    `LM_SWEEP_HOME` where it is set; else the checkout that this file is part of; else, for an
    installed wheel, the working folder.
    """
    home = os.environ.get("LM_SWEEP_HOME")
    if home:
        return Path(home).expanduser().resolve()
    if (PACKAGE_PARENT / "pyproject.toml").is_file():
        return PACKAGE_PARENT
    return Path.cwd()


def in_project(path: str | Path) -> Path:
    """Return `path` as an absolute path; a relative one starts at the project folder."""
    return (project_folder() / Path(path).expanduser()).resolve()


def cache_folder() -> Path:
    """Return the user's folder for what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lm-sweep"


def config_file(name: str) -> Path:
    """Return a user's configuration file, or one shipped with the project, e.g. `smoke.yaml`."""
    shipped = (PACKAGE_PARENT / "configs" / name, PACKAGE_PARENT / "sweep" / "configs" / name)
    return next((path for path in (Path(name), *shipped) if path.is_file()), Path(name))
