"""Stories about parts of a workspace that change, or are filled in, while they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.domain.difference import Part
from tests.support.memory import GLOBEX, touched_part
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


async def parts_change_while_they_are_read(schedule: Schedule) -> None:
    """They are all parts, or some that an earlier change has touched."""
    await know(schedule, USER)
    if schedule.random.random() < 0.5:
        schedule.evict_workspace(USER)
    else:
        await change(schedule, *some(schedule, HAT, MEMBER, SKILL))
    schedule.begin(USER)
    await schedule.rush("parts", 1)
    touched = [WORKSPACE] if schedule.random.random() < 0.3 else some(schedule, HAT, MEMBER, SKILL)
    await change(schedule, *touched)
    await schedule.rush()


async def a_change_touches_two_workspaces(schedule: Schedule) -> None:
    """Keys of both call."""
    await know(schedule, USER, ELSEWHERE)
    await change(schedule, HAT, touched_part(Part.HAT, "p", GLOBEX))
    for client in (USER, ELSEWHERE):
        schedule.begin(client)
    await schedule.rush()


async def a_member_leaves_when_a_hat_moves(schedule: Schedule) -> None:
    """In one transaction or in two. Perhaps others call in between, so that nothing else is missing at that moment."""
    await know(schedule, USER, OTHER_USER)
    touches = schedule.random.choice([[[MEMBER, HAT]], [[MEMBER], [HAT]], [[HAT], [MEMBER]]])
    for each in touches:
        database = schedule.database
        while MEMBER in each and not database.worlds[-1].after((MEMBER,), database.epoch + 1, 0).has_left(USER):
            await change(schedule, OTHER_HAT)
        if schedule.random.random() < 0.5:
            await know(schedule, OTHER_USER)
        await change(schedule, *each)
    for client in (USER, OTHER_USER):
        schedule.begin(client)
    await schedule.rush()


async def parts_are_ahead_when_the_lease_ends(schedule: Schedule) -> None:
    """They are all parts, or those that were missing."""
    await know(schedule, USER, WHOLE)
    if schedule.random.random() < 0.5:
        schedule.evict_workspace(USER)
    else:
        await change(schedule, HAT)
    schedule.begin(WHOLE)
    await schedule.rush("parts", 0)
    schedule.reader.tick()
    schedule.reader.send()
    schedule.database.change(*some(schedule, HAT, MEMBER, OTHER_HAT), touch_of(schedule, USER))
    await schedule.rush("parts")
    schedule.reader.tick()
    await schedule.turns(6)
    schedule.reader.get_answer()
    for client in (USER, WHOLE, OTHER_USER):
        schedule.begin(client)
        await schedule.jitter()
    await schedule.rush("key")


async def contents_are_replaced_while_a_part_is_read(schedule: Schedule) -> None:
    """A slow load of a hat arrives when another load has read more."""
    await know(schedule, USER, WHOLE)
    await change(schedule, HAT)
    schedule.begin(USER)
    await schedule.rush("parts", 0)
    slow = schedule.hold()
    if schedule.random.random() < 0.5:
        schedule.evict_workspace(USER)
    await change(schedule, SKILL)
    schedule.begin(WHOLE)
    await schedule.rush("parts")
    await change(schedule, HAT)
    schedule.resume(slow)
    await schedule.rush()


async def the_row_is_lost_while_parts_are_read(schedule: Schedule) -> None:
    """A change of that time is never applied."""
    if schedule.random.random() < 0.5:
        await know(schedule, USER, WHOLE)
        await change(schedule, *some(schedule, HAT, SKILL))
    schedule.begin(USER)
    await schedule.rush("key")
    await schedule.rush("parts", schedule.random.randrange(3))
    await lose(schedule, *some(schedule, HAT, SKILL, MEMBER))
    await schedule.rush()


async def an_older_load_is_the_last(schedule: Schedule) -> None:
    """It fills a part that the newer load has not read, and a call without a lease has the older version."""
    part = some(schedule, MEMBER, HAT)[0]
    await know(schedule, USER, OTHER_USER, WHOLE)
    await change(schedule, OTHER_MEMBER)
    schedule.begin(OTHER_USER)
    await schedule.rush("parts", 0)
    newer = schedule.hold()
    await change(schedule, part)
    for client in (USER, OTHER_USER):
        schedule.begin(client)
    await schedule.rush("parts", 1)
    older = schedule.hold()
    schedule.reader.lapse()
    schedule.begin(OTHER_USER)
    await schedule.rush("key", 2)
    call = schedule.hold()
    schedule.reader.renew()
    await change(schedule, OTHER_MEMBER, touch_of(schedule, OTHER_USER))
    for each in (newer, older, call):
        schedule.resume(each)
        await schedule.rush()


async def a_member_is_missing_when_the_lease_ends(schedule: Schedule) -> None:
    """The rest of the workspace has the version that a call without a lease reads."""
    await know(schedule, USER, WHOLE)
    await change(schedule, HAT)
    schedule.begin(WHOLE)
    await schedule.rush("parts", 0)
    await change(schedule, HAT, MEMBER)
    await schedule.rush("parts")
    schedule.reader.lapse()
    schedule.begin(USER)
    await schedule.rush()


async def a_change_is_overtaken_while_it_is_read_ahead(schedule: Schedule) -> None:
    """What was read has more of the hat than memory has of the rest."""
    await know(schedule, USER, OTHER_USER, WHOLE)
    schedule.database.change(HAT)
    schedule.reader.read_ahead()
    await schedule.jitter()
    if schedule.random.random() < 0.7:
        schedule.database.change(HAT, *some(schedule, MEMBER, SKILL))
    await schedule.rush("parts")
    for _ in range(2):
        await apply(schedule)
        for client in (USER, WHOLE):
            schedule.begin(client)
            await schedule.jitter()
    await schedule.rush()


async def a_call_comes_when_a_load_is_overtaken(schedule: Schedule) -> None:
    """The change has returned before the call begins; the load is of the whole workspace, or of a hat."""
    await know(schedule, USER, WHOLE)
    if schedule.random.random() < 0.5:
        schedule.evict_workspace(USER)
    else:
        await change(schedule, HAT)
    schedule.begin(USER)
    await schedule.rush("parts", 1)
    await change(schedule, *some(schedule, HAT, MEMBER, OTHER_HAT))
    schedule.reader.renew()
    for client in (USER, WHOLE):
        schedule.begin(client)
    await schedule.rush()
