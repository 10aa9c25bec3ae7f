"""What the nodes of a cluster must be alike in, so that their trials can be compared and saved."""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from sweep.record.identity import code_digest
from trainable.common.errors import DataError, StorageError, first_line
from trainable.config.trial import TrialConfig
from trainable.storage.address import is_remote, open_store

LIBRARIES = ("torch", "numpy", "ray")
"""Whose versions decide a trial's numbers."""

DATASET = "the dataset"

BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""How Linux says that a processor computes in bf16 itself; without, it is emulated."""


@dataclass(frozen=True)
class Facts:
    """What a node is, as its own Python finds it."""

    alike: dict[str, str]
    """What must be as it is on the driver."""
    processor: str
    bf16: bool
    """Whether the processor computes in bf16 itself."""
    ails: str | None = None
    """What is wrong with the storage, as the node sees it; None: nothing."""

    def differs_from(self, driver: "Facts") -> list[str]:
        """Return what keeps a node's trials from being compared, or saved; [] if nothing."""
        unlike = [
            f"{name} is {self.alike.get(name)}, on the driver {there}"
            for name, there in driver.alike.items()
            if self.alike.get(name) != there
        ]
        return [*unlike, *([self.ails] if self.ails else [])]

    def lacks_only_data(self, driver: "Facts") -> bool:
        """Say whether the node is as it must be once it has the dataset."""
        return self.ails is None and self.alike | {DATASET: driver.alike[DATASET]} == driver.alike


def own_facts(dataset: str, ails: str | None = None) -> Facts:
    """Return the facts of the machine that this runs on, given its dataset's digest."""
    alike = {"the code in trainable/": code_digest(), DATASET: dataset}
    versions = {name: metadata.version(name) for name in LIBRARIES}
    return Facts(alike | versions, *_processor(), ails)


def probe_node(
    trial: TrialConfig, storage: str, mark: str, copy: str | None = None, verify: bool = False
) -> Facts:
    """Find the facts of the node that this is run on.

    Args:
        trial: what all trials share; it names the dataset.
        storage: the folder that all nodes must see.
        mark: name of a file that the driver wrote there.
        copy: digest of the dataset's copy to look at; None: at the dataset itself.
        verify: read every byte of the token files.
    """
    from trainable.data.copy import open_here  # with torch, which the node's trials need, too

    try:
        dataset = open_here(trial, copy, verify=verify).digest
    except DataError as error:
        dataset = f"not readable ({first_line(error)})"
    return own_facts(dataset, trouble_with(storage, mark))


def _processor() -> tuple[str, bool]:
    """Return the processor's name, and whether it computes in bf16 itself."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):  # no Linux: nothing is known
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    flags = facts.get("flags", facts.get("Features", "")).split()
    return facts.get("model name", "unknown"), not BF16_FLAGS.isdisjoint(flags)


@contextlib.contextmanager
def marked(storage: str) -> Iterator[str]:
    """Leave a file in a folder for a while: who finds it sees the same folder."""
    mark = f".nodes-{secrets.token_hex(8)}"
    if is_remote(storage):  # an address means the same everywhere
        yield mark
        return
    folder = Path(storage)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / mark).write_text(mark)
    try:
        yield mark
    finally:
        (folder / mark).unlink(missing_ok=True)


def trouble_with(storage: str, mark: str, whose: str = "the driver's") -> str | None:
    """Return why a folder is not the marked one, or cannot be written; None if nothing is wrong."""
    if is_remote(storage):
        try:
            open_store(storage).require_usable()
        except StorageError as error:
            return str(error)
        return None
    answer = Path(storage) / f"{mark}-{secrets.token_hex(8)}"
    try:
        if (Path(storage) / mark).read_text() != mark:
            return f"{storage} is not {whose} folder"
        try:
            answer.write_text(mark)
        finally:
            answer.unlink(missing_ok=True)
    except FileNotFoundError:
        return f"{storage} is not {whose} folder"
    except OSError as error:
        return f"{storage} cannot be used ({error.strerror})"
    return None
