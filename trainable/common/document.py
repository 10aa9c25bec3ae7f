"""The base of every JSON document that commands print; formats.schema.json describes them all."""

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """A part of a document: finite numbers, null where there is none, every key always there."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
