"""Stories about a key that a call holds or waits for, and about the lease and the row of the reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.schedules.steps import (
    ELSEWHERE,
    HAT,
    MEMBER,
    OTHER_HAT,
    OTHER_MEMBER,
    OTHER_USER,
    SKILL,
    USER,
    WHOLE,
    WORKSPACE,
    apply,
    change,
    know,
    lose,
    some,
    touch_of,
)

if TYPE_CHECKING:
    from tests.support.schedules.schedule import Schedule
    from tests.support.schedules.world import Client


def until_value(schedule: Schedule, client: Client, value: int) -> None:
    """Commit changes until a key has a value; it has a smaller one before."""
    while schedule.database.epoch < value - 1:
        schedule.database.change(HAT)
    schedule.database.change(client.touch)


async def apply_all(schedule: Schedule) -> None:
    """Apply all changes, and get a lease."""
    schedule.reader.renew()
    await schedule.jitter()


async def a_key_is_ahead_when_the_lease_ends(schedule: Schedule) -> None:
    """A heartbeat that was sent before brings the lease back, and memory has not applied the epoch of the key yet."""
    await know(schedule, USER, WHOLE)
    await change(schedule, HAT)
    schedule.begin(WHOLE)
    await schedule.rush("parts", 1)
    schedule.reader.tick()
    schedule.reader.send()
    schedule.database.change(*some(schedule, OTHER_HAT, SKILL), touch_of(schedule, USER))
    schedule.evict_key(USER)
    schedule.begin(USER)
    await schedule.rush("key")
    schedule.reader.tick()
    await schedule.turns(6)
    schedule.reader.get_answer()
    await schedule.rush("parts", 1)
    schedule.go_on()
    await schedule.jitter()
    if schedule.random.random() < 0.5:
        schedule.evict_workspace(USER)
    if schedule.random.random() < 0.8:
        schedule.reader.apply()


async def a_key_is_ahead_of_the_parts(schedule: Schedule) -> None:
    """The call holds the key of a state after the change, and waits for parts of a state before it."""
    await know(schedule, WHOLE)
    schedule.evict_workspace(WHOLE)
    schedule.begin(WHOLE)
    await schedule.rush("parts", schedule.random.randrange(2))
    touched = [WORKSPACE] if schedule.random.random() < 0.2 else some(schedule, HAT, SKILL)
    schedule.database.change(*touched, touch_of(schedule, USER))
    schedule.begin(USER)
    await schedule.rush("key")
    schedule.reader.lapse()
    await schedule.turns(6)
    if schedule.random.random() < 0.5:
        schedule.database.change(*some(schedule, HAT, SKILL), touch_of(schedule, USER))
    if schedule.random.random() < 0.5:
        schedule.reader.renew()
        await schedule.rush("parts")
    else:
        await schedule.rush("parts", 1)
        schedule.go_on()
        await schedule.jitter()
        schedule.reader.renew()


async def a_key_is_loaded_ahead_of_memory(schedule: Schedule) -> None:
    """Another call of the same key begins before memory has applied the change."""
    await know(schedule, WHOLE)
    schedule.database.change(*some(schedule, HAT, MEMBER, SKILL), touch_of(schedule, USER))
    for _ in range(2):
        schedule.begin(USER)
        await schedule.rush("key")
    await apply(schedule)


async def a_key_changes_while_the_workspace_is_read(schedule: Schedule) -> None:
    """The read sees the state after the change, and the call holds the key of the state before."""
    await know(schedule, USER, WHOLE)
    missing = some(schedule, HAT, OTHER_HAT, MEMBER)
    await change(schedule, *missing, MEMBER)
    schedule.begin(USER)
    await schedule.rush("parts", 0)
    if schedule.random.random() < 0.3:
        schedule.evict_key(USER)
    elif schedule.random.random() < 0.5:
        for client in (OTHER_USER, ELSEWHERE, WHOLE):  # there is room for three keys
            schedule.begin(client)
            await schedule.rush("key")
    schedule.database.change(*some(schedule, *missing, MEMBER), touch_of(schedule, USER))
    if schedule.random.random() < 0.5:
        await apply(schedule)
    await schedule.rush("parts")
    await apply(schedule)


async def a_key_is_revoked_before_its_first_use(schedule: Schedule) -> None:
    """Memory has not heard of that yet, but the use cannot be recorded any more."""
    schedule.database.used.discard(USER.key_id)
    await know(schedule, WHOLE)
    if schedule.random.random() < 0.3:
        schedule.reader.lapse()
    schedule.begin(USER)
    await schedule.rush("key", 3)
    if schedule.random.random() < 0.5:
        schedule.begin(USER)
        await schedule.jitter()
    while not schedule.database.worlds[-1].revoked(USER):
        schedule.database.change(USER.touch)
    await schedule.rush("key")


async def the_row_is_lost_when_a_key_arrives(schedule: Schedule) -> None:
    """Just before the call goes on with it."""
    await know(schedule, WHOLE)
    schedule.begin(USER)
    await schedule.rush("key", schedule.random.randrange(3))
    schedule.go_on()
    await schedule.jitter()
    await lose(schedule, *some(schedule, HAT, MEMBER, SKILL), touch_of(schedule, USER))
    await schedule.rush()


async def a_change_returns_because_the_row_is_removed(schedule: Schedule) -> None:
    """The process has not heard of it, and calls begin before and after it registers anew."""
    await know(schedule, USER, WHOLE)
    schedule.database.change(*some(schedule, HAT, MEMBER, SKILL), touch_of(schedule, USER))
    schedule.reader.lapse()
    schedule.reader.lose_row()
    schedule.begin(USER)
    await schedule.rush(steps=schedule.random.randrange(4))
    schedule.reader.renew()
    schedule.begin(WHOLE)
    await schedule.rush()


async def a_call_without_a_lease_has_an_old_version(schedule: Schedule) -> None:
    """A lease comes back before the call takes the workspace, and memory gets a newer part meanwhile."""
    part = some(schedule, OTHER_MEMBER, HAT)[0]
    await know(schedule, OTHER_USER, WHOLE)
    schedule.reader.lapse()
    schedule.begin(OTHER_USER)
    await schedule.rush("key", 2)
    late = schedule.hold()
    schedule.reader.renew()
    await change(schedule, part, touch_of(schedule, OTHER_USER))
    schedule.begin(OTHER_USER)
    await schedule.rush()
    schedule.resume(late)
    await schedule.rush()


async def a_key_changes_while_it_is_read(schedule: Schedule) -> None:
    """The read has seen the state before the change."""
    await know(schedule, WHOLE)
    schedule.begin(USER)
    await schedule.rush("key", 1)
    await change(schedule, *some(schedule, HAT, MEMBER, SKILL), touch_of(schedule, USER))
    schedule.begin(USER)
    await schedule.rush()


async def keys_are_loaded_ahead_while_one_changes(schedule: Schedule) -> None:
    """Nobody has asked for them yet. The read has seen the state before the change."""
    await know(schedule, WHOLE)
    schedule.load_ahead(USER, OTHER_USER)
    await schedule.rush("key", schedule.random.randrange(2))
    await change(schedule, *some(schedule, HAT, SKILL), touch_of(schedule, USER))
    await schedule.rush("key")
    schedule.begin(USER)
    await schedule.rush()


async def keys_are_loaded_ahead_before_memory_has_the_change(schedule: Schedule) -> None:
    """The read has seen the state after the change, and the parts are of the state before."""
    await know(schedule, WHOLE)
    schedule.database.change(*some(schedule, HAT, MEMBER, SKILL), touch_of(schedule, USER))
    schedule.load_ahead(USER)
    await schedule.rush("key")
    schedule.begin(USER)
    await schedule.rush("key")
    await apply(schedule)


async def a_key_expires_in_memory(schedule: Schedule) -> None:
    """No change says so, and the lease goes on."""
    await know(schedule, WHOLE)
    until_value(schedule, USER, 2)
    await apply_all(schedule)
    await know(schedule, USER)
    for _ in range(3):
        schedule.reader.tick()
        schedule.reader.renew()
        schedule.begin(USER)
        await schedule.rush(steps=schedule.random.randrange(6))


async def a_key_expires_while_it_is_read(schedule: Schedule) -> None:
    """The database has said that it is valid, and the answer takes longer than that is true. Others join the load."""
    await know(schedule, WHOLE)
    if schedule.random.random() < 0.3:
        schedule.evict_workspace(WHOLE)
    until_value(schedule, USER, 2)
    await apply_all(schedule)
    schedule.database.used.add(USER.key_id)
    schedule.begin(USER)
    await schedule.rush("key", 2)
    for _ in range(3):
        schedule.reader.tick()
        schedule.reader.renew()
    schedule.begin(USER)
    await schedule.rush()


async def a_key_is_suspended_in_memory(schedule: Schedule) -> None:
    """And resumed, before or after memory has heard of the one or the other; or its user leaves as well."""
    await know(schedule, USER, WHOLE)
    until_value(schedule, USER, 5)
    for touches in ([], schedule.random.choice([[USER.touch], [HAT], [MEMBER]]), some(schedule, USER.touch, MEMBER)):
        if touches:
            schedule.database.change(*touches)
        if schedule.random.random() < 0.7:
            await apply_all(schedule)
        for _ in range(2):
            schedule.begin(USER)
            await schedule.rush(steps=schedule.random.choice((2, 100)))


async def a_suspended_key_is_resumed_and_revoked(schedule: Schedule) -> None:
    """A load has read the resumed key when memory hears of the revoke, or memory hears of both at once."""
    await know(schedule, USER, WHOLE)
    until_value(schedule, USER, 5)
    await apply_all(schedule)
    schedule.database.used.add(USER.key_id)
    await know(schedule, USER)
    schedule.database.change(USER.touch)
    if schedule.random.random() < 0.7:
        await apply(schedule)
    schedule.begin(USER)
    await schedule.rush("key", schedule.random.choice((1, 2, 100)))
    schedule.database.change(USER.touch)
    await apply_all(schedule)
    if schedule.random.random() < 0.5:
        await schedule.rush()
    schedule.begin(USER)
    await schedule.rush()
