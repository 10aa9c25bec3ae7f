"""Checkpoints at an S3-compatible address, uploaded the last file last, and downloaded to be read.

Endpoint, region and keys come from the environment, wherever a process runs: they are in no
setting, record or message.
"""

import contextlib
import errno
import functools
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from trainable.common.errors import CheckpointError, DamagedCheckpointError, StorageError
from trainable.storage.store import is_name

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
"""Variables of the environment that are nobody else's business."""

WHERE = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
"""Variables that say which server is meant."""

PATIENCE_SECONDS = 60.0
"""How long a server is asked again that does not answer, or not now."""

CHECK_SECONDS = 3.0
"""The same, before a sweep begins."""

CONNECT_SECONDS = 5.0

PIECE_BYTES = 8 * 2**20

LONGEST_PAUSE_SECONDS = 8.0

_REFUSED = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|NO_SUCH_BUCKET|"
    r"INVALID_CLIENT_TOKEN_ID|MISSING_AUTHENTICATION_TOKEN|RESOURCE_NOT_FOUND|"
    r"UNRECOGNIZED_CLIENT|VALIDATION)"
)
"""Answers that asking again does not change."""

_FULL = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")


class S3Store:
    """Checkpoints below `s3://BUCKET/PREFIX`."""

    def __init__(self, address: str, patience: float = PATIENCE_SECONDS) -> None:
        self._address = address
        self._root = address.removeprefix("s3://")
        self._patience = patience

    @contextlib.contextmanager
    def writing(self, name: str, last: str) -> Iterator[Path]:
        """Give a temporary folder; upload what is in it at the end, `last` after all others.

        An upload that is killed on the way leaves no object, or some without `last`.
        """
        with _scratch() as folder:
            yield folder
            for path in sorted(folder.iterdir(), key=lambda path: path.name == last):
                self._upload(path, f"{self._root}/{name}/{path.name}")

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Give a temporary folder with the checkpoint downloaded to it."""
        with _scratch() as folder:
            try:
                keys = self._keys(name)
                if not keys:
                    raise FileNotFoundError(name)
                for key in keys:
                    self._download(key, folder / key.rpartition("/")[2])
            except FileNotFoundError:
                raise DamagedCheckpointError(f"checkpoint {self.address(name)}: gone") from None
            try:
                yield folder
            except CheckpointError as error:
                told = str(error).replace(str(folder), self.address(name))
                raise type(error)(told) from error

    def exists(self, name: str) -> bool:
        """Say whether there is an object of this checkpoint."""
        return bool(self._keys(name))

    def names(self, below: str = "") -> list[str]:
        """Return the names of all checkpoints that there are objects of."""
        keys = self._keys(below)
        folders = {key[len(self._root) + 1 :].rpartition("/")[0] for key in keys}
        return sorted(name for name in folders if is_name(name))

    def delete(self, name: str) -> None:
        """Begin to remove a checkpoint, in a second thread: training does not wait for it."""
        if is_name(name):
            self._second.submit(self._delete, name)

    def settle(self) -> None:
        """Wait for the second thread: it works while trials run, not while Ray starts or stops."""
        self._second.submit(int).result()

    def address(self, name: str) -> str:
        """Return a checkpoint's address."""
        return f"{self._address}/{name}".rstrip("/")

    def disk(self) -> Path | None:
        """Return nothing: no disk of ours fills up."""
        return None

    def require_usable(self) -> None:
        """Write a small object, read it again and remove it.

        Raises:
            StorageError: the keys, the bucket or the endpoint are wrong, or it does not answer.
        """
        key = f"{self._root}/.probe-{uuid.uuid4().hex}"

        def probe() -> None:
            with self._files.open_output_stream(key) as stream:
                stream.write(b"probe")
            with self._files.open_input_stream(key) as stream:
                if stream.read() != b"probe":
                    raise StorageError(f"storage {self._address}: does not give back what it took")
            self._files.delete_file(key)

        self._patiently(probe, CHECK_SECONDS)

    @functools.cached_property
    def _files(self) -> Any:
        from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem  # half a second to import

        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        scheme, _, host = endpoint.rpartition("://")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return S3FileSystem(
            endpoint_override=host.rstrip("/") or None,
            scheme=scheme or "https",
            region=region or ("us-east-1" if endpoint else None),
            connect_timeout=CONNECT_SECONDS,
            tls_ca_file_path=os.environ.get("AWS_CA_BUNDLE"),
            # A small object is one request: no half of it is ever there.
            allow_delayed_open=True,
            retry_strategy=AwsStandardS3RetryStrategy(max_attempts=1),
        )

    @functools.cached_property
    def _second(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="delete")

    def _keys(self, below: str) -> list[str]:
        from pyarrow.fs import FileSelector

        place = f"{self._root}/{below}".rstrip("/")
        selector = FileSelector(place, recursive=True, allow_not_found=True)
        found = self._patiently(lambda: self._files.get_file_info(selector))
        return [info.path for info in found if info.is_file]

    def _upload(self, path: Path, key: str) -> None:
        def upload() -> None:
            # pyarrow's own copy_files forgets what fails when a stream is closed: all, for a small
            # object. Where reading fails, a shorter object stays; `last` is not uploaded then.
            with path.open("rb") as source, self._files.open_output_stream(key) as target:
                shutil.copyfileobj(source, target, PIECE_BYTES)

        self._patiently(upload)

    def _download(self, key: str, path: Path) -> None:
        def download() -> None:
            with self._files.open_input_stream(key) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, PIECE_BYTES)

        self._patiently(download)

    def _delete(self, name: str) -> None:
        with contextlib.suppress(OSError):  # gone already, or away: it is collected later
            self._files.delete_dir(f"{self._root}/{name}")

    def _patiently(self, action: Callable[[], T], patience: float | None = None) -> T:
        """Do something, again and again where the server does not answer.

        Raises:
            FileNotFoundError: an object is gone.
            StorageError: the server refuses, or was away for too long.
        """
        seconds = self._patience if patience is None else patience
        deadline, pause = time.monotonic() + seconds, 0.5
        while True:
            try:
                return action()
            except FileNotFoundError:
                raise
            except OSError as error:
                if error.errno in _FULL:
                    raise _no_room() from error
                if _REFUSED.search(str(error)) or time.monotonic() + pause > deadline:
                    raise self._error(error) from None
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _error(self, error: OSError) -> StorageError:
        told = str(error).partition("AWS Error ")[2] or str(error)
        told = re.split(r" \(Request ID|; Details|\n", told)[0].rstrip(".")
        for name in KEYS:
            if os.environ.get(name):
                told = told.replace(os.environ[name], "***")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return StorageError(
            f"storage {self._address}: {told}; are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
            f"AWS_ENDPOINT_URL{'' if endpoint else ', which is unset,'} right, and the server up?"
        )


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Give a temporary folder.

    Raises:
        StorageError: there is no room for it: not the results' disk is full, which a session ends
            for, but this node's temporary folder.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="lm-checkpoint-") as folder:
            yield Path(folder)
    except OSError as error:
        if error.errno in _FULL:
            raise _no_room() from error
        raise


def _no_room() -> StorageError:
    return StorageError(
        f"TMPDIR {tempfile.gettempdir()}: full; a checkpoint lies there before it is uploaded and "
        "while it is read: make room, or set TMPDIR to another disk"
    )
