"""An event as a line of the record: readable JSON that vouches for each of its own bytes."""

import json
import math
import zlib
from typing import Any

Event = dict[str, Any]
"""Has "event", its kind, and "time", Unix seconds; see results.py for each kind's other keys."""

LONGEST_MENDED = 16 * 2**10
"""Bytes of the longest line that is tried for one flipped bit, which takes a second."""

_SEAL = b', "crc32": "%08x"}\n'

_SEAL_BYTES = len(_SEAL % 0)


def to_line(event: Event) -> bytes:
    """Return an event's line: JSON whose last field is the CRC-32 of what stands before it.

    Raises:
        ValueError: a number in it is not finite.
    """
    return _sealed(json.dumps(event, allow_nan=False).encode().removesuffix(b"}"))


def from_line(line: bytes) -> Event:
    """Return the event of a line that to_line wrote.

    Raises:
        ValueError: a byte of it was changed, or it is no event.
    """
    if line != _sealed(line[:-_SEAL_BYTES]):
        raise ValueError("the checksum is another one")
    try:
        event = json.loads(line, parse_constant=_refuse)
        sound = isinstance(event["event"], str) and math.isfinite(event["time"])
    except (TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ValueError(f"no event: {error!r}") from error
    if not sound:
        raise ValueError("no event: its kind is no text, or its time no number")
    del event["crc32"]
    return dict(event)


def is_sound(line: bytes) -> bool:
    """Say whether from_line takes a line."""
    try:
        from_line(line)
    except ValueError:
        return False
    return True


def mended(line: bytes) -> list[bytes]:
    """Return what a damaged line was if one bit of it is flipped; nothing if more was changed.

    It was two lines if the flipped bit is in the newline between them. CRC-32 tells every flip of
    up to three bits in lines of ours from every other line, so what fits is what was written.
    """
    if len(line) > LONGEST_MENDED:
        return []
    for place in range(8 * len(line)):
        changed = bytearray(line)
        changed[place // 8] ^= 1 << place % 8
        lines = [part + b"\n" for part in bytes(changed).removesuffix(b"\n").split(b"\n")]
        if all(is_sound(part) for part in lines):
            return lines
    return []


def _sealed(body: bytes) -> bytes:
    return body + _SEAL % zlib.crc32(body)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")
