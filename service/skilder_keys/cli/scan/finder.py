"""Find tokens in bytes, by their checksum. Nothing but the bytes is needed: neither the service nor a database."""

from __future__ import annotations

import base64
import re
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

from skilder_keys.domain.token import MalformedTokenError, Token

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# The underscore as it is, as Markdown escapes it, or as URLs may. What stands before and after a token does not matter:
# in source code it may follow the `n` of a `\n`. The checksum tells tokens from other texts.
_PLAIN = re.compile(rb"([UWR][ST]K)(?:_|\\_|%5[Ff])(?=([0-9A-Za-z]{71}))")
# A token at the beginning of what was encoded, as in a Secret of Kubernetes: its 75 bytes are 100 characters.
_BASE64 = re.compile(rb"(V1NLX|VVNLX|UlRLX)(?=([0-9A-Za-z+/]{95}))")
_LONGEST = 100


def tokens_in(chunks: Iterable[bytes]) -> Iterator[tuple[int, Token]]:
    """Yield each token in some data with the number of its line, which begins at 1.

    NUL characters count as absent, so tokens are found in UTF-16 too, which some shells and editors write.

    Args:
        chunks: The data, in parts of any size.
    """
    line, block = 1, b""
    for chunk in chain(chunks, [None]):
        block += (chunk or b"").replace(b"\0", b"")
        # A token that begins before this is complete. One that begins later is found together with the next part.
        end = len(block) if chunk is None else max(0, len(block) - _LONGEST)
        for position, token in _tokens(block, end):
            yield line + block.count(b"\n", 0, position), token
        line += block.count(b"\n", 0, end)
        block = block[end:]


def _tokens(block: bytes, end: int) -> Iterator[tuple[int, Token]]:
    """Yield the tokens that begin before a position, with their positions."""
    candidates = [(each.start(), each[1] + b"_" + each[2]) for each in _PLAIN.finditer(block) if each.start() < end]
    candidates += [
        (each.start(), base64.b64decode(each[1] + each[2])) for each in _BASE64.finditer(block) if each.start() < end
    ]
    for position, text in sorted(candidates):
        with suppress(MalformedTokenError):
            yield position, Token.parse(text.decode("latin-1"))
