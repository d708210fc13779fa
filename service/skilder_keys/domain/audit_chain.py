"""The chain of audit events: what is hashed, so that a change of what is on record shows.

In each workspace the events are numbered without gaps. The hash of an event is SHA-256 over the 32 bytes of the hash
before it and its content in UTF-8; the hash before number 1 is all zeros. The content is compact JSON:

    {"workspace_id":…,"number":…,"at":"2026-01-31T23:59:59.000001Z","action":…,"key_id":…,"caller":…,"private":"hex"}

`private` is SHA-256 over the event's 16 random bytes of salt and its private text, which is compact JSON, too, but for
`details`, which is spelled as Postgres spells JSONB:

    {"actor":…,"peer":…,"details":{"user_id": "ada", …}}

So actor, peer and details can be erased, with the salt, and the chain still shows that nothing else was changed. The
function `chain_audit_events` of the database writes the chain; here it is computed from the columns alone.
"""

from __future__ import annotations

from hashlib import sha256
from json.encoder import encode_basestring as _quoted
from typing import NamedTuple

GENESIS = bytes(32)
"""The hash before number 1."""


class ChainedEvent(NamedTuple):
    """An event as it is on record.

    Attributes:
        id: Its place among the events of all workspaces.
        number: Its number in its workspace.
        at: When, in UTC: `2026-01-31T23:59:59.000001Z`.
        details: The spelling of Postgres.
        salt: 16 random bytes; None if actor, peer and details were erased.
        private_digest: What was computed of them before they were erased; else None.
    """

    workspace_id: str
    id: int
    number: int
    at: str
    action: str
    key_id: str | None
    caller: str
    actor: str | None
    peer: str
    details: str
    salt: bytes | None
    private_digest: bytes | None
    hash: bytes


class OlderEvent(NamedTuple):
    """An event from before there was a chain. An event in the chain has the count of these and a hash over them.

    Attributes:
        private_digest: What was computed of actor, peer and details before they were erased; else None.
    """

    workspace_id: str
    id: int
    at: str
    action: str
    key_id: str | None
    caller: str
    actor: str | None
    peer: str
    details: str
    private_digest: bytes | None


def private_text(event: ChainedEvent | OlderEvent) -> str:
    """Return what can be erased of an event."""
    return f'{{"actor":{_value(event.actor)},"peer":{_quoted(event.peer)},"details":{event.details}}}'


def content_of(event: ChainedEvent) -> str:
    """Return the content of an event, which its hash covers."""
    digest = event.private_digest
    if digest is None:
        digest = sha256((event.salt or b"") + private_text(event).encode()).digest()
    return _content(event, f'"number":{event.number}', digest)


def older_content(event: OlderEvent) -> str:
    """Return what the hash over older events covers of one of them. They have no salt."""
    digest = event.private_digest or sha256(private_text(event).encode()).digest()
    return _content(event, f'"id":{event.id}', digest)


def next_hash(before: bytes, content: str) -> bytes:
    """Return the hash of an event, from the hash before it and its content."""
    return sha256(before + content.encode()).digest()


def _content(event: ChainedEvent | OlderEvent, position: str, digest: bytes) -> str:
    return (
        f'{{"workspace_id":{_quoted(event.workspace_id)},{position},"at":"{event.at}"'
        f',"action":{_quoted(event.action)},"key_id":{_value(event.key_id)},"caller":{_quoted(event.caller)}'
        f',"private":"{digest.hex()}"}}'
    )


def _value(text: str | None) -> str:
    return "null" if text is None else _quoted(text)
