"""Audit events as lines of an export: JSON, with what the hashes cover, so that the file can be checked by itself.

An event is `{"content": …, "private": …, "salt": …, "hash": …}`: content and private text are strings, exactly as they
were hashed, and salt and hash are in hexadecimal. Private text and salt are null where they were erased. An event from
before the chain is `{"older": …, "private": …}`: its content has a digest of the private text, without a salt.
`domain/audit_chain.py` describes the texts.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from skilder_keys.domain.audit_chain import GENESIS, content_of, next_hash, older_content, private_text
from skilder_keys.domain.audit_check import NO_EVENT, Head

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skilder_keys.domain.audit_chain import ChainedEvent, OlderEvent


class ExportError(Exception):
    """A line of an export is not one, or does not follow from those before it."""


class Exported(NamedTuple):
    """What an export has of one workspace.

    Attributes:
        first: The number of its first event in the chain; 0 if it has none.
        head: The last one.
        older: How many events from before the chain it has, and the hash over them.
        wanted: The last event that is not after a wanted number.
    """

    first: int = 0
    head: Head = NO_EVENT
    older: Head = NO_EVENT
    wanted: Head = NO_EVENT


def line_of(event: ChainedEvent) -> str:
    """Return the line of an event."""
    erased = event.salt is None
    return _line(
        content=content_of(event),
        private=None if erased else private_text(event),
        salt=None if event.salt is None else event.salt.hex(),
        hash=event.hash.hex(),
    )


def older_line_of(event: OlderEvent) -> str:
    """Return the line of an event from before the chain."""
    return _line(older=older_content(event), private=None if event.private_digest else private_text(event))


class ExportReader:
    """Reads the lines of an export in order, and checks each.

    Attributes:
        exported: What was read, by workspace.
    """

    def __init__(self, wanted: Mapping[str, int] | None = None) -> None:
        """Make a reader; `wanted` has numbers by workspace."""
        self.exported: dict[str, Exported] = {}
        self._wanted = wanted or {}

    def read(self, line: str) -> None:
        """Take in the next line.

        Raises:
            ExportError: It is no line of an export, or does not follow.
        """
        try:
            fields = json.loads(line)
            if "older" in fields:
                self._older(fields["older"], fields["private"])
            else:
                self._chained(fields)
        except (ValueError, KeyError, TypeError) as error:
            raise ExportError(f"it is no line of an export ({type(error).__name__})") from None

    def after(self, event: ChainedEvent) -> None:
        """Take in an event that is to be the next line.

        Raises:
            ExportError: It does not follow.
        """
        self._follow(event.workspace_id, event.number, content_of(event), event.hash)

    def _older(self, content: str, private: str | None) -> None:
        said = json.loads(content)
        workspace_id = said["workspace_id"]
        if private is not None and sha256(private.encode()).hexdigest() != said["private"]:
            raise ExportError(f"the private text of an event of {workspace_id} was changed")
        before = self.exported.get(workspace_id, Exported())
        older = Head(before.older.number + 1, next_hash(before.older.hash, content))
        self.exported[workspace_id] = before._replace(older=older)

    def _chained(self, fields: Mapping[str, str | None]) -> None:
        content, digest = str(fields["content"]), bytes.fromhex(str(fields["hash"]))
        said = json.loads(content)
        workspace_id, number = said["workspace_id"], said["number"]
        private, salt = fields["private"], fields["salt"]
        if private is not None and sha256(bytes.fromhex(str(salt)) + private.encode()).hexdigest() != said["private"]:
            raise ExportError(f"the private text of event {number} of {workspace_id} was changed")
        self._follow(workspace_id, number, content, digest)

    def _follow(self, workspace_id: str, number: int, content: str, digest: bytes) -> None:
        known = self.exported.get(workspace_id, Exported())
        before = known.head
        if known.first:
            follows = number == before.number + 1 and next_hash(before.hash, content) == digest
        else:  # what was before the first event may have been pruned
            follows = number > 1 or next_hash(GENESIS, content) == digest
        if not follows:
            raise ExportError(f"event {number} of {workspace_id} does not follow from event {before.number}")
        head = Head(number, digest)
        wanted = head if number <= self._wanted.get(workspace_id, 0) else known.wanted
        self.exported[workspace_id] = known._replace(first=known.first or number, head=head, wanted=wanted)


def _line(**fields: str | None) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n"
