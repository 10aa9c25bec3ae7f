"""Text to token files, and the batches drawn from them.

`trainable.data.get_batch` is the contract's (CS336 assignment 1, section 5.1). It is imported when
it is asked for: what reads only a dataset's facts needs no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainable.data.batches import get_batch as get_batch


def __getattr__(name: str) -> Any:
    if name == "get_batch":
        from trainable.data.batches import get_batch

        return get_batch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
