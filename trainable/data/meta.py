"""meta.json: what a dataset folder holds, written last and read first."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from trainable.common.errors import DataError
from trainable.common.files import write_atomic
from trainable.config.explain import validate
from trainable.config.section import Section


class DatasetMeta(Section):
    """Facts about a prepared dataset."""

    format: Literal[1] = 1
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

    @classmethod
    def read(cls, folder: Path) -> "DatasetMeta":
        """Read a dataset folder's meta.json.

        Raises:
            DataError: it is missing, not JSON or not of this version.
        """
        path = folder / "meta.json"
        try:
            values: Any = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(
                f"{path}: {error.strerror}; a dataset folder is made by trainable/prepare.py "
                "(for nanoGPT's .bin files set data.raw_dtype and data.raw_vocab_size)"
            ) from error
        except ValueError as error:
            raise DataError(f"{path}: not JSON ({error}); prepare the dataset again") from error
        try:
            return validate(cls, values, str(path))
        except ValueError as error:
            raise DataError(str(error)) from error

    def write(self, folder: Path) -> None:
        """Write meta.json into `folder`."""
        text = json.dumps(self.model_dump(), indent=2) + "\n"
        write_atomic(folder / "meta.json", text.encode())
