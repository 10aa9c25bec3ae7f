"""Text as a stream of documents: the embedded corpus, and a user's files and folders."""

import codecs
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainable.common.errors import DataError

END_OF_TEXT = "<|endoftext|>"

PIECE_CHARACTERS = 1 << 20
"""Longest piece of text held in memory at once."""

_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


class Corpus(Protocol):
    """A source of documents that can be read more than once, always in the same order."""

    @property
    def description(self) -> str:
        """What the text is, in words."""

    def documents(self) -> Iterator[Iterator[str]]:
        """Yield each document as its pieces of text, each at most PIECE_CHARACTERS long.

        A document's pieces must be used up before the next document is asked for.
        """


@dataclass(frozen=True)
class StandardLibrary:
    """The running Python's own standard library: real text that is there on every machine.

    Its .py files without tests and site-packages, sorted by path; one file is one document.
    """

    root: Path = Path(sysconfig.get_paths()["stdlib"])

    @property
    def description(self) -> str:
        """What the text is, in words."""
        return f"standard library of Python {sysconfig.get_python_version()}"

    def documents(self) -> Iterator[Iterator[str]]:
        """Yield each module's text."""
        for path in sorted(self.root.rglob("*.py"), key=lambda p: p.relative_to(self.root).parts):
            if _SKIPPED_FOLDERS.intersection(path.relative_to(self.root).parts[:-1]):
                continue
            try:
                text = path.read_text(encoding="utf-8")
            except (UnicodeDecodeError, OSError):
                continue  # a few modules are kept in other encodings on purpose
            if text and END_OF_TEXT not in text:
                yield _pieces(text)


@dataclass(frozen=True)
class TextFiles:
    """A user's UTF-8 files; folders stand for all files below them, sorted.

    A document ends at the end of its file, or at a literal <|endoftext|>, the separator that
    published corpora such as TinyStories use.
    """

    inputs: Sequence[Path]

    @property
    def description(self) -> str:
        """What the text is, in words."""
        names = (os.fsencode(path.name).decode(errors="replace") for path in self.inputs)
        return ", ".join(names)

    def documents(self) -> Iterator[Iterator[str]]:
        """Yield each non-empty document, streamed: no file is ever held in memory as a whole."""
        for path in self._files():
            yield from _split(_characters(path))

    def _files(self) -> Iterator[Path]:
        for path in self.inputs:
            if path.is_dir():
                files = sorted(p for p in path.rglob("*") if p.is_file())
                if not files:
                    raise DataError(f"--input {path}: the folder holds no files")
                yield from files
            elif path.is_file():
                yield path
            else:
                raise DataError(f"--input {path}: no such file or folder")


def _characters(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    read = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(PIECE_CHARACTERS):
                text = decoder.decode(chunk)
                if "\0" in text:
                    raise DataError(
                        f"--input {path}: holds a NUL byte near byte {read}: is it a binary file? "
                        "Remove it or leave the file out"
                    )
                read += len(chunk)
                yield text
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise DataError(
            f"--input {path}: not UTF-8 text near byte {read + error.start}; convert it first, "
            "for example with `iconv -t UTF-8`"
        ) from error
    except OSError as error:
        raise DataError(f"--input {path}: {error.strerror}") from error


def _split(chunks: Iterator[str]) -> Iterator[Iterator[str]]:
    """Split a stream of text at END_OF_TEXT into non-empty documents, as streams of pieces."""
    rest = ""
    more = True

    def document() -> Iterator[str]:
        nonlocal rest, more
        while True:
            head, mark, tail = rest.partition(END_OF_TEXT)
            if mark:
                rest = tail
                yield from _pieces(head)
                return
            if len(rest) > PIECE_CHARACTERS:
                # Keep what may be the start of a separator, and cut before white space, so that
                # a BPE tokenizer sees the same words.
                cut = _cut(rest, len(rest) - len(END_OF_TEXT))
                yield from _pieces(rest[:cut])
                rest = rest[cut:]
            chunk = next(chunks, None)
            if chunk is None:
                more = False
                head, rest = rest, ""
                yield from _pieces(head)
                return
            rest += chunk

    while more:
        pieces = document()
        first = next(pieces, None)
        if first is not None:
            yield _chain(first, pieces)


def _chain(first: str, others: Iterator[str]) -> Iterator[str]:
    yield first
    yield from others


def _pieces(text: str) -> Iterator[str]:
    while len(text) > PIECE_CHARACTERS:
        cut = _cut(text, PIECE_CHARACTERS)
        yield text[:cut]
        text = text[cut:]
    if text:
        yield text


def _cut(text: str, limit: int) -> int:
    """Return the last position up to `limit` that is before white space, or `limit` itself."""
    for mark in ("\n", " "):
        found = text.rfind(mark, 1, limit)
        if found > 0:
            return found
    return limit
