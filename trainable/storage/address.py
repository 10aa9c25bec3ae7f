"""From the text that names a place for checkpoints to the place."""

import re
from pathlib import Path

from trainable.common.paths import in_project
from trainable.storage.folder import FolderStore
from trainable.storage.store import Store

_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9!_.*'()=-]+)*", re.ASCII)

RULE = (
    "a folder that all nodes see, or s3://BUCKET/PREFIX (its keys and endpoint in the environment: "
    "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)"
)


def require_address(text: str) -> None:
    """Refuse what is neither a folder nor an address of S3; it is not repeated: it may hold keys.

    Raises:
        ValueError: it is such a text.
    """
    scheme, separator, rest = text.partition("://")
    if separator and scheme != "s3":
        raise ValueError(f"storage: {scheme[:20]}:// is no scheme known here; give {RULE}")
    if separator and "@" in rest:
        raise ValueError(f"storage: keys do not belong into an address; give {RULE}")
    if separator and (not _S3.fullmatch(text) or {".", ".."} & set(rest.split("/"))):
        raise ValueError(f"storage: no address of a bucket; give {RULE}")
    if not text or "\0" in text:
        raise ValueError(f"storage: empty or no path; give {RULE}")


def resolved(text: str) -> str:
    """Return an address of S3 as it is, and a folder as an absolute path; see in_project."""
    return text if is_remote(text) else str(in_project(text))


def is_remote(address: str) -> bool:
    """Say whether an address is one of S3."""
    return address.startswith("s3://")


def open_store(address: str) -> Store:
    """Return the store at an absolute path, or at an address of S3; nothing is asked of it yet."""
    if is_remote(address):
        from trainable.storage.s3 import S3Store

        return S3Store(address)
    return FolderStore(Path(address))
