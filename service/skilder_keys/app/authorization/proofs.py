"""Which tokens were verified, in memory that the workers of a server share and that outlives them."""

from __future__ import annotations

import hashlib
import hmac
import mmap
import secrets
from typing import TYPE_CHECKING, Self
from uuid import UUID

from skilder_keys.domain.hashing import TokenFingerprint
from skilder_keys.domain.ids import KeyId

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from skilder_keys.domain.token import KeyType

_KEY_BYTES = 32
_ID_BYTES = 16
_DIGEST_BYTES = 32
_SEAL_BYTES = 16
_ENTRY_BYTES = _ID_BYTES + _DIGEST_BYTES + _SEAL_BYTES
_WAYS = 16
_BUCKET_BYTES = _WAYS * _ENTRY_BYTES
_SPARE = 2
"""How many times more places than keys there are, so that hardly a bucket is too small."""
_LAYOUT = b"skilder proofs 1"
"""The name of this layout. Another one gets another name, so that no version accepts the entries of another."""
_NOBODY = bytes(_ID_BYTES)


class Proofs:
    """A table of verified tokens, one for each key.

    That a token has the secret of a given hash never changes. So an entry is good for ever, and says nothing about
    whether the key may still be used.

    The memory begins with a random key, and goes on with places for entries: the id of a key, the keyed digest of its
    token, and a seal. The seal is a keyed digest of both and of the type and the stored hash with which the token was
    verified. So an entry counts only with that hash. Workers read and write without a lock: an entry that another one
    has written half has no valid seal, and neither has one of another layout.

    An entry is in one of the 16 places of a bucket, the newest in front; the oldest falls out.

    Attributes:
        fingerprint: Computes the digests of tokens. All who share the memory have the same.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        """Use a memory of which the first 32 bytes are random, and the others were zero at first."""
        key = memory[:_KEY_BYTES]
        self.fingerprint = TokenFingerprint(key)
        self._seal = hashlib.blake2b(key=key, person=_LAYOUT, digest_size=_SEAL_BYTES)
        self._memory = memory
        self._buckets = (len(memory) - _KEY_BYTES) // _BUCKET_BYTES

    @classmethod
    def shared(cls, descriptor: int) -> Self:
        """Return the table in the memory behind a file descriptor, which may be closed afterwards."""
        return cls(mmap.mmap(descriptor, 0))

    @classmethod
    def of_one_process(cls, keys: int) -> Self:
        """Return a table with room for some keys that is shared with nobody."""
        memory = mmap.mmap(-1, _KEY_BYTES + -(-keys * _SPARE // _WAYS) * _BUCKET_BYTES)
        memory[:_KEY_BYTES] = secrets.token_bytes(_KEY_BYTES)
        return cls(memory)

    def get(self, key_id: KeyId, type_: KeyType, secret_hash: str) -> bytes | None:
        """Return the digest of the only token that has the secret of a hash; None if no entry says which it is."""
        id_ = key_id.bytes
        start = self._bucket(id_)
        at = self._memory.find(id_, start, start + _BUCKET_BYTES)
        if at < 0:
            return None
        entry = self._memory[at : at + _ENTRY_BYTES]  # a copy, which no other process changes
        digest = entry[_ID_BYTES : _ID_BYTES + _DIGEST_BYTES]
        return digest if hmac.compare_digest(entry, self._entry(id_, type_, secret_hash, digest)) else None

    def add(self, key_id: KeyId, type_: KeyType, secret_hash: str, digest: bytes) -> None:
        """Note the digest of a token that was verified with a hash."""
        id_ = key_id.bytes
        start = self._bucket(id_)
        bucket = self._memory[start : start + _BUCKET_BYTES]
        if id_ in bucket:  # the key has another secret now
            entries = (bucket[at : at + _ENTRY_BYTES] for at in range(0, _BUCKET_BYTES, _ENTRY_BYTES))
            bucket = b"".join(each for each in entries if not each.startswith(id_)).ljust(_BUCKET_BYTES, b"\0")
        entry = self._entry(id_, type_, secret_hash, digest)
        self._memory[start : start + _BUCKET_BYTES] = entry + bucket[:-_ENTRY_BYTES]

    def key_ids(self) -> Iterator[KeyId]:
        """Yield the ids of the keys in the table, roughly the newest entries first. Some may be in no valid entry.

        The entries of a bucket have no gap, so an empty place ends it: an empty table is read once for each bucket.
        """
        starts: Iterable[int] = range(_KEY_BYTES, _KEY_BYTES + self._buckets * _BUCKET_BYTES, _BUCKET_BYTES)
        for way in range(_WAYS):
            longer = []
            for start in starts:
                at = start + way * _ENTRY_BYTES
                id_ = self._memory[at : at + _ID_BYTES]
                if id_ != _NOBODY:
                    longer.append(start)
                    yield KeyId(UUID(bytes=id_))
            starts = longer

    def _bucket(self, id_: bytes) -> int:
        # An id begins with the time at which it was made, and ends with random bits.
        return _KEY_BYTES + int.from_bytes(id_[8:]) % self._buckets * _BUCKET_BYTES

    def _entry(self, id_: bytes, type_: KeyType, secret_hash: str, digest: bytes) -> bytes:
        seal = self._seal.copy()
        seal.update(id_ + digest + f"{type_.value} {secret_hash}".encode())
        return id_ + digest + seal.digest()
