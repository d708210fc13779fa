"""Python's search for reference cycles, as a worker has it."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

from skilder_keys.worker.process import COLLECTION_THRESHOLDS

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def collected_as_in_a_worker() -> Iterator[None]:
    """Search as seldom as a worker does, and not among the objects that exist already."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTION_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
