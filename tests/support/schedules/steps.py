"""What several stories have in common: who calls, what changes, and how far things go.

Chance decides how far the event loop gets between two steps, and some more, so each seed tells a story differently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.domain.difference import Part
from tests.support.memory import ACME, touched_keys, touched_part
from tests.support.schedules.world import ANN, BOB, CLIENTS

if TYPE_CHECKING:
    from skilder_keys.storage.fence import Touch
    from tests.support.schedules.schedule import Schedule
    from tests.support.schedules.world import Client

USER, OTHER_USER, WHOLE, ELSEWHERE = CLIENTS
"""Keys of two users and one of all hats, of the same workspace; and a key of another workspace."""
MEMBER, OTHER_MEMBER = touched_part(Part.MEMBER, ANN), touched_part(Part.MEMBER, BOB)
WORKSPACE = touched_part(Part.WORKSPACE, None, ACME)
HAT, OTHER_HAT, SKILL = touched_part(Part.HAT, "p"), touched_part(Part.HAT, "q"), touched_part(Part.SKILL, "p")


async def know(schedule: Schedule, *clients: Client) -> None:
    """Let memory have keys and their workspaces."""
    for client in clients:
        schedule.begin(client)
        await schedule.rush()


async def change(schedule: Schedule, *touches: Touch) -> None:
    """Commit a change and apply it."""
    schedule.database.change(*touches)
    await apply(schedule)


async def apply(schedule: Schedule) -> None:
    """Apply the next change."""
    schedule.reader.apply()
    await schedule.jitter()


async def lose(schedule: Schedule, *touches: Touch) -> None:
    """Commit a change and lose the row of the reader, which registers anew and gets a lease."""
    schedule.database.change(*touches)
    schedule.reader.register()
    await schedule.jitter()
    schedule.reader.renew()


def touch_of(schedule: Schedule, client: Client) -> Touch:
    """Return the touch of a key, or of all keys of its workspace."""
    return schedule.random.choice([client.touch, touched_keys(client.workspace_id)])


def some(schedule: Schedule, *touches: Touch) -> list[Touch]:
    """Return some of these, at least one."""
    return schedule.random.sample(touches, schedule.random.randint(1, len(touches)))
