"""Facts in a JSON file that tells of its own damage."""

from typing import Any, ClassVar, Self

from blake3 import blake3
from pydantic_core import from_json

from trainable.config.explain import validate
from trainable.config.section import Section


class Sealed(Section):
    """Base of facts kept in a JSON file in which no flipped bit goes unnoticed.

    The file carries the digest of its own facts, in the field that `seal` names, and is accepted in
    one spelling only.
    """

    seal: ClassVar[str]
    """Name of the field with the digest; its default is the empty text."""

    def digest(self) -> str:
        """Return what the seal must be."""
        return blake3(self.model_dump_json(by_alias=True, exclude={self.seal}).encode()).hexdigest()

    def sealed(self) -> Self:
        """Return the same facts with their seal."""
        return self.model_copy(update={self.seal: self.digest()})

    def text(self) -> str:
        """Return the one spelling that `unsealed` accepts."""
        return self.model_dump_json(by_alias=True, indent=2)

    @classmethod
    def unsealed(cls, content: bytes, source: str) -> Self:
        """Return the facts in a file's content.

        Raises:
            ValueError: it is not JSON, not of this layout, or was changed after it was written.
        """
        try:
            values: Any = from_json(content)
        except ValueError as error:
            raise ValueError(f"{source}: not JSON ({error})") from error
        facts = validate(cls, values, source)
        if getattr(facts, cls.seal) != facts.digest() or facts.text().encode() != content:
            raise ValueError(f"{source}: was changed after it was written, or is damaged")
        return facts
