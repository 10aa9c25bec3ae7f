"""The JSON Schema of all documents that commands print with --json."""

from typing import Any

from pydantic.json_schema import models_json_schema

from sweep.show.documents import (
    RestoredDocument,
    SweepDocument,
    SweepsDocument,
    WrittenDocument,
)
from sweep.show.plan_document import PlanDocument
from sweep.show.recommended import RecommendationDocument
from trainable.training.documents import DatasetDocument, TextDocument, TrialRunDocument

DOCUMENTS = (
    *(SweepDocument, SweepsDocument, PlanDocument, RestoredDocument, WrittenDocument),
    *(RecommendationDocument, TrialRunDocument, TextDocument, DatasetDocument),
)
"""Within a number behind the slash of `format`, keys are only added."""


def formats_schema() -> dict[str, Any]:
    """Return one schema that every document fulfils; `format` says which of them it is."""
    _, schema = models_json_schema(
        [(document, "serialization") for document in DOCUMENTS],
        title="What the commands of lm-sweep print with --json",
    )
    names = [{"$ref": f"#/$defs/{document.__name__}"} for document in DOCUMENTS]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "oneOf": names, **schema}
