"""Linear algebra on one thread: while trials train, every core is taken.

Threads that wait for cores which others hold made a decision of the search take ten times as long.
And the bits of a product depend on how many threads share it: suggestions must not.
"""

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import scipy.linalg  # noqa: F401 - its library is another one than numpy's, and must be there
from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
T = TypeVar("T")


def on_one_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function such that matrices in it are multiplied and factored by one thread."""

    @wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> T:
        with _libraries().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return limited


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
