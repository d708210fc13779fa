"""Read the API's lists page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skilder_keys.cli.exits import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PAGE_SIZE = 1000


def pages(call: Callable[[Any], Any], request: Any, field: str, limit: int | None = None) -> Iterator[list[Any]]:  # noqa: ANN401 - of any list method
    """Yield the elements of a list page by page, as they arrive, and at most `limit` in total.

    If there are more elements, report this on standard error.

    Args:
        call: The method, such as `stub.ListKeys`.
        request: Its request. The page size and the page token are set here.
        field: The name of the list in the response.
        limit: The most elements to yield; None for all.
    """
    left = limit
    while True:
        # A page without elements may be followed by others. So whether there are more is known from the next element.
        request.page_size = _PAGE_SIZE if left is None else min(left or 1, _PAGE_SIZE)
        page = call(request)
        elements = list(getattr(page, field))
        if left == 0 and elements:
            say(f"There are more: --limit {limit} leaves them out.")
            return
        if left != 0:
            yield elements
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
        if left is not None:
            left -= len(elements)
