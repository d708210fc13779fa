"""The table of verified tokens that workers share: what an entry says, how many there are, and what is no entry."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any

from skilder_keys.app.authorization import proofs
from skilder_keys.app.authorization.proofs import Proofs
from skilder_keys.domain.token import KeyType
from skilder_keys.supervisor.shared_memory import shared_memory
from tests.support.ids import new_key_id

if TYPE_CHECKING:
    import pytest

    from skilder_keys.domain.ids import KeyId

TYPE = KeyType.WORKSPACE
HASH = "$argon2id$v=19$m=256,t=1,p=1$c2FsdA$aGFzaA"
DIGEST = bytes(range(32))
ENTRY = 64


class CountingMemory(mmap.mmap):
    """A memory that counts how often it was read."""

    reads = 0

    def __getitem__(self, key: Any) -> Any:
        """Count, and read."""
        self.reads += 1
        return super().__getitem__(key)


def in_order(table: Proofs, *key_ids: KeyId) -> list[KeyId]:
    """Return those of the keys that are in the table, in its order."""
    return [each for each in table.key_ids() if each in key_ids]


def test_an_entry_counts_for_its_key_type_and_hash_only() -> None:
    """A secret that was replaced has another hash, and is verified again."""
    table, key_id = Proofs.of_one_process(100), new_key_id()
    assert table.get(key_id, TYPE, HASH) is None
    table.add(key_id, TYPE, HASH, DIGEST)
    assert table.get(key_id, TYPE, HASH) == DIGEST
    assert table.get(key_id, TYPE, HASH + "x") is None
    assert table.get(key_id, KeyType.USER, HASH) is None
    assert table.get(new_key_id(), TYPE, HASH) is None


def test_a_key_has_one_entry_the_last() -> None:
    """The hash before has none any more."""
    table, key_id = Proofs.of_one_process(100), new_key_id()
    table.add(key_id, TYPE, HASH, DIGEST)
    table.add(key_id, TYPE, HASH + "x", DIGEST[::-1])
    assert table.get(key_id, TYPE, HASH) is None
    assert table.get(key_id, TYPE, HASH + "x") == DIGEST[::-1]
    assert list(table.key_ids()) == [key_id]


def test_the_oldest_entry_of_a_full_bucket_falls_out() -> None:
    """This table has one bucket, of sixteen places. An entry that is made again is the newest."""
    table = Proofs.of_one_process(8)
    key_ids = [new_key_id() for _ in range(16)]
    for each in key_ids:
        table.add(each, TYPE, HASH, DIGEST)
    assert list(table.key_ids()) == key_ids[::-1]
    table.add(key_ids[0], TYPE, HASH, DIGEST)
    another = new_key_id()
    table.add(another, TYPE, HASH, DIGEST)
    assert list(table.key_ids()) == [another, key_ids[0], *key_ids[:1:-1]]
    assert table.get(key_ids[1], TYPE, HASH) is None


def test_there_is_room_for_as_many_keys_as_were_asked_for() -> None:
    """Hardly a bucket is full then."""
    table = Proofs.of_one_process(2000)
    key_ids = [new_key_id() for _ in range(2000)]
    for each in key_ids:
        table.add(each, TYPE, HASH, DIGEST)
    assert sum(table.get(each, TYPE, HASH) == DIGEST for each in key_ids) >= 1980


def test_empty_places_are_not_read_again_and_again() -> None:
    """All workers go through the whole table whenever they have dropped their memory, and it may be large."""
    memory = CountingMemory(-1, 32 + 1000 * 16 * ENTRY)
    table = Proofs(memory)
    assert list(table.key_ids()) == []
    assert 0 < memory.reads <= 1001
    key_ids = [new_key_id() for _ in range(500)]
    for each in key_ids:
        table.add(each, TYPE, HASH, DIGEST)
    memory.reads = 0
    assert set(table.key_ids()) == set(key_ids)
    assert memory.reads <= 1000 + len(key_ids)


def test_workers_share_entries_and_fingerprints() -> None:
    """Through a descriptor that each may close. The memory has room for the keys, and no name."""
    with shared_memory(1000) as descriptor:
        copies = [os.dup(descriptor) for _ in range(2)]
        one, other = map(Proofs.shared, copies)
        for each in copies:
            os.close(each)
        assert os.fstat(descriptor).st_nlink == 0
        assert os.fstat(descriptor).st_size == 32 + 1000 * 2 * ENTRY
    key_id = new_key_id()
    one.add(key_id, TYPE, HASH, one.fingerprint.digest("a token"))
    assert other.get(key_id, TYPE, HASH) == other.fingerprint.digest("a token")
    with shared_memory(1000) as descriptor:
        stranger = Proofs.shared(descriptor)
        assert stranger.fingerprint.digest("a token") != one.fingerprint.digest("a token")


def test_what_is_half_written_or_was_moved_is_no_entry() -> None:
    """Whichever byte of an entry is another one: the digest in front of it, or the seal."""
    memory = mmap.mmap(-1, 32 + 16 * ENTRY)
    memory[:32] = os.urandom(32)
    table, key_id, another = Proofs(memory), new_key_id(), new_key_id()
    table.add(another, TYPE, HASH, DIGEST[::-1])
    table.add(key_id, TYPE, HASH, DIGEST)
    for at in range(32 + 16, 32 + ENTRY):
        memory[at] ^= 1
        assert table.get(key_id, TYPE, HASH) is None
        memory[at] ^= 1
    assert table.get(key_id, TYPE, HASH) == DIGEST
    for end in range(17, ENTRY):  # the id of one key, and from some place on what another key has
        torn = memory[32 : 32 + end] + memory[32 + ENTRY + end : 32 + 2 * ENTRY]
        whole, memory[32 : 32 + ENTRY] = memory[32 : 32 + ENTRY], torn
        assert table.get(key_id, TYPE, HASH) is None
        memory[32 : 32 + ENTRY] = whole


def test_no_version_accepts_the_entries_of_another_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an upgrade, workers of both versions use the same memory for a while."""
    memory = mmap.mmap(-1, 32 + 16 * ENTRY)
    memory[:32] = os.urandom(32)
    table, key_id = Proofs(memory), new_key_id()
    table.add(key_id, TYPE, HASH, DIGEST)
    monkeypatch.setattr(proofs, "_LAYOUT", b"skilder proofs 2")
    newer = Proofs(memory)
    assert newer.get(key_id, TYPE, HASH) is None
    newer.add(key_id, TYPE, HASH, DIGEST)
    assert newer.get(key_id, TYPE, HASH) == DIGEST
    assert table.get(key_id, TYPE, HASH) is None
