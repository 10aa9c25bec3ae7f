"""The MLflow store: where it is, a client that neither waits nor talks, and what it refuses."""

import contextlib
import logging
import os
import sqlite3
from pathlib import Path
from typing import Any

from sweep.common.errors import SweepError
from sweep.common.redact import redact
from sweep.tracking.new_store import is_half_made, make_store
from trainable.common.errors import first_line
from trainable.common.paths import project_folder

SQLITE = "sqlite:///"

_AWAY = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"}

DATABASE_ATTEMPTS = 6
"""Attempts to open a database, in 6 s; MLflow's own 10 take 102 s, and training would begin."""

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # every failure is raised, too
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # A dead server must not hold a call for minutes: the caller tries again.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI, or the project's own store, which plain `mlflow ui` opens."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{project_folder() / 'mlflow.db'}"


def open_client(uri: str) -> Any:
    """Return MLflow's client of a store: silent, no telemetry, no pickles, no long waits.

    A local SQLite file is made where there is none.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("sqlalchemy").setLevel(logging.CRITICAL)
    from mlflow import MlflowClient

    if not is_server(uri):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = DATABASE_ATTEMPTS
    path = sqlite_file(uri)
    if path is not None:
        make_store(path)
    return MlflowClient(tracking_uri=uri)


def is_server(uri: str) -> bool:
    """Say whether a store is a server, which may be away and come back; else it is a database."""
    return uri.startswith("http")


def is_away(uri: str, error: Exception) -> bool:
    """Say whether `error` is of a server that may come back, and not of a store that refuses."""
    return is_server(uri) and getattr(error, "error_code", None) in _AWAY


def refused(uri: str, error: Exception) -> SweepError:
    """Return what to say of a store that cannot be used at all."""
    path = sqlite_file(uri)
    if path is not None and is_half_made(path):
        remedy = f"It was left half made and holds nothing: delete {path} and start again"
    else:
        remedy = (
            "Use another store (MLFLOW_TRACKING_URI), upgrade this one with `mlflow db upgrade`"
        )
    why = redact(first_line(error)).rstrip(".")
    return SweepError(
        f"MLflow store {redact(uri)!r}: {why}. {remedy}, "
        "or record without MLflow: --tracking.no-enabled"
    )


def require_writable(uri: str) -> None:
    """Write to a store that is a local SQLite file, and undo it: reading alone would do until then.

    Raises:
        sqlite3.OperationalError: it cannot be written.
    """
    path = sqlite_file(uri)
    if path is None:
        return
    with contextlib.closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("CREATE TABLE lm_sweep_writes (n)")
        database.execute("ROLLBACK")


def tune_sqlite(uri: str, statement: str) -> None:
    """Run a statement on a store that is a local SQLite file; do nothing to another."""
    path = sqlite_file(uri)
    if path is None:
        return
    with sqlite3.connect(path, timeout=10) as database:
        database.execute(statement)
    database.close()


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a store that is a local SQLite file; None of another."""
    if not uri.startswith(SQLITE):
        return None
    name = uri.removeprefix(SQLITE).partition("?")[0]
    if name in ("", ":memory:"):
        return None
    path = Path(name)
    return path.parent.resolve() / path.name


def address_stored(uri: str) -> str:
    """Return a store's address to remember: no secrets; a file in the project relative to it."""
    path, project = sqlite_file(uri), project_folder().resolve()
    if path is not None and path.is_relative_to(project):
        return f"{SQLITE}{path.relative_to(project)}"
    return redact(uri)


def address_shown(stored: str) -> str:
    """Return the address that address_stored remembered, as it is now that the project is here."""
    if not stored.startswith(SQLITE):
        return stored
    return f"{SQLITE}{project_folder().resolve() / stored.removeprefix(SQLITE)}"
