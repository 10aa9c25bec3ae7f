"""meta.json: what a dataset folder holds, written last and read first."""

import os
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from trainable.common.errors import DataError
from trainable.common.files import file_digest
from trainable.config.sealed import Sealed

META_FILE = "meta.json"

TOKENIZER_FILE = "tokenizer.json"


class DatasetMeta(Sealed):
    """Facts about a prepared dataset; they vouch for its files, and for themselves."""

    seal: ClassVar[str] = "meta_blake3"

    format: Literal[2] = 2
    """Version of this layout."""
    source: str
    """What the text is, in words."""
    source_sha256: str
    """Digest of the documents in order: equal text gives equal digests."""
    tokenizer: Literal["byte", "bpe"]
    """Kind of tokenizer.json."""
    vocab_size: int = Field(ge=2, le=2**32)
    """Number of token ids, <|endoftext|> included."""
    dtype: Literal["uint16", "uint32"]
    """Type of the token ids in train.npy and val.npy."""
    train_documents: int = Field(ge=1)
    """Documents in train.npy."""
    val_documents: int = Field(ge=1)
    """Documents in val.npy."""
    train_tokens: int = Field(ge=1)
    """Token ids in train.npy, <|endoftext|> included."""
    val_tokens: int = Field(ge=1)
    """Token ids in val.npy, <|endoftext|> included."""
    train_bytes: int = Field(ge=0)
    """Bytes of text behind train.npy."""
    val_bytes: int = Field(ge=0)
    """Bytes of text behind val.npy."""
    train_blake3: str
    """BLAKE3 of the token bytes of train.npy, header excluded."""
    val_blake3: str
    """BLAKE3 of the token bytes of val.npy, header excluded."""
    tokenizer_blake3: str
    """BLAKE3 of tokenizer.json."""
    meta_blake3: str = ""
    """BLAKE3 of the fields above."""

    @classmethod
    def read(cls, folder: Path) -> "DatasetMeta":
        """Read a dataset folder's meta.json.

        Raises:
            DataError: it is missing, damaged or not of this version.
        """
        path = folder / META_FILE
        try:
            return cls.unsealed(path.read_bytes(), str(path))
        except OSError as error:
            raise DataError(
                f"{path}: {error.strerror}; a dataset folder is made by trainable/prepare.py "
                "(for nanoGPT's .bin files set data.raw_dtype and data.raw_vocab_size)"
            ) from error
        except ValueError as error:
            raise DataError(f"{error}; prepare the dataset again") from error

    def write(self, folder: Path) -> None:
        """Write meta.json into `folder`, to be read by whoever may read the other files."""
        with (folder / META_FILE).open("wb") as file:
            file.write(self.text().encode())
            file.flush()
            os.fsync(file.fileno())

    def require_tokenizer(self, folder: Path) -> None:
        """Refuse a tokenizer.json that is not the one the dataset was prepared with.

        Raises:
            DataError: it is missing, or does not have its digest.
        """
        if tokenizer_digest(folder) != self.tokenizer_blake3:
            raise DataError(
                f"{folder / TOKENIZER_FILE}: does not have the digest that meta.json vouches for: "
                "it is missing, damaged or was changed; prepare the dataset again"
            )


def tokenizer_digest(folder: Path) -> str | None:
    """Return the BLAKE3 of a dataset folder's tokenizer.json, or None where there is none.

    Raises:
        DataError: it cannot be read.
    """
    path = folder / TOKENIZER_FILE
    try:
        return file_digest(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
