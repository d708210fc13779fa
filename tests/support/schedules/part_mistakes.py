"""Mistakes in the level of workspaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.app.authorization import missing
from skilder_keys.app.authorization.snapshot import Snapshot
from skilder_keys.app.authorization.snapshots import Snapshots
from tests.support.schedules import key_stories, part_stories
from tests.support.schedules.plant import Edit

if TYPE_CHECKING:
    from tests.support.schedules.plant import Mistake

PART_MISTAKES: dict[str, Mistake] = {
    "the end of a workspace touches a part of it": (
        part_stories.parts_change_while_they_are_read,
        (Edit(missing, "part is Part.WORKSPACE for", "part is not Part.WORKSPACE for"),),
    ),
    "the end of a workspace leaves it open": (
        key_stories.a_key_is_ahead_of_the_parts,
        (Edit(missing, "        snapshot.close(epoch - 1)\n        return None", "        return None"),),
    ),
    "nothing is ever missing": (
        key_stories.a_key_changes_while_the_workspace_is_read,
        (
            Edit(
                Snapshot,
                "not self.complete or (user_id is not None and (Part.MEMBER, user_id) in self.missing)",
                "False",
            ),
        ),
    ),
    "no member is ever missing": (
        key_stories.a_key_changes_while_the_workspace_is_read,
        (Edit(Snapshot, " or (user_id is not None and (Part.MEMBER, user_id) in self.missing)", ""),),
    ),
    "a missing member has left": (
        key_stories.a_key_changes_while_the_workspace_is_read,
        (Edit(Snapshot, "None if (Part.MEMBER, user_id) in self.missing else DenialReason", "DenialReason"),),
    ),
    "a structural change leaves the old snapshot open": (
        key_stories.a_key_is_ahead_of_the_parts,
        (Edit(Snapshot, "self.close(epoch - 1)", "pass"),),
    ),
    "a structural change closes the old snapshot at itself": (
        key_stories.a_key_is_ahead_of_the_parts,
        (Edit(Snapshot, "self.close(epoch - 1)", "self.close(epoch)"),),
    ),
    "the closed snapshot shares its members": (
        part_stories.parts_change_while_they_are_read,
        (
            Edit(
                Snapshot,
                "            self.members.copy(),\n            deleted=self.deleted,\n            missing={**",
                "            self.members,\n            deleted=self.deleted,\n            missing={**",
            ),
        ),
    ),
    "the new snapshot has a member that is missing": (
        part_stories.a_member_leaves_when_a_hat_moves,
        (Edit(Snapshot, '                members.pop(UserId(id_ or ""), None)', "                pass"),),
    ),
    "a member's fill does not raise the label": (
        key_stories.a_key_changes_while_the_workspace_is_read,
        (
            Edit(
                Snapshot,
                "self.version, self.label = max(self.version, version), epoch",
                "self.version = max(self.version, version)",
            ),
        ),
    ),
    "a fill does not raise the label": (
        key_stories.a_key_changes_while_the_workspace_is_read,
        (
            Edit(
                Snapshots,
                "held.filled(filled, arrived.contents, arrived.members, read.version, self._lease.epoch)",
                "held.filled(filled, arrived.contents, arrived.members, read.version, held.label)",
            ),
        ),
    ),
    "a fill has the label of its load": (
        part_stories.an_older_load_is_the_last,
        (
            Edit(
                Snapshots,
                "held.filled(filled, arrived.contents, arrived.members, read.version, self._lease.epoch)",
                "held.filled(filled, arrived.contents, arrived.members, read.version, label)",
            ),
        ),
    ),
    "a member's fill sets the version back": (
        part_stories.an_older_load_is_the_last,
        (
            Edit(
                Snapshot,
                "self.version, self.label = max(self.version, version), epoch",
                "self.version, self.label = version, epoch",
            ),
        ),
    ),
    "a member's fill leaves the version": (
        key_stories.a_call_without_a_lease_has_an_old_version,
        (Edit(Snapshot, "self.version, self.label = max(self.version, version), epoch", "self.label = epoch"),),
    ),
    "a fill sets the version back": (
        part_stories.an_older_load_is_the_last,
        (Edit(Snapshot, "            max(self.version, version),\n", "            version,\n"),),
    ),
    "a fill leaves the version": (
        key_stories.a_call_without_a_lease_has_an_old_version,
        (Edit(Snapshot, "            max(self.version, version),\n", "            self.version,\n"),),
    ),
    "a member that a change has touched stays": (
        key_stories.a_key_changes_while_the_workspace_is_read,
        (Edit(Snapshot, '                self.members.pop(UserId(id_ or ""), None)', "                pass"),),
    ),
    "a part is filled although a later change has touched it": (
        part_stories.parts_change_while_they_are_read,
        (Edit(Snapshots, "epoch <= label and ", ""),),
    ),
    "a part is filled that was not read": (
        part_stories.an_older_load_is_the_last,
        (Edit(Snapshots, " and missing.covers(read.wanted, each)", ""),),
    ),
    "parts are filled into other contents": (
        part_stories.contents_are_replaced_while_a_part_is_read,
        (Edit(Snapshots, "held.contents is not base.contents", "False"),),
    ),
    "parts are filled that are ahead of memory": (
        part_stories.parts_are_ahead_when_the_lease_ends,
        (Edit(Snapshots, " if caught_up else load.base", ""),),
    ),
    "a workspace is kept that is ahead of memory": (
        part_stories.parts_are_ahead_when_the_lease_ends,
        (Edit(Snapshots, "elif not caught_up:", "elif False:"),),
    ),
    "a workspace that is ahead of memory stays open": (
        key_stories.a_key_is_ahead_of_the_parts,
        (Edit(Snapshots, "loaded.close(loaded.label)", "pass"),),
    ),
    "a workspace is kept although the row was lost": (
        part_stories.the_row_is_lost_while_parts_are_read,
        (Edit(Snapshots, "if load.void:", "if False:"),),
    ),
    "a workspace is kept as it was before a change": (
        part_stories.parts_change_while_they_are_read,
        (Edit(Snapshots, "held is not None and epoch > loaded.label", "False"),),
    ),
    "what is replaced stays open": (
        key_stories.a_key_is_ahead_when_the_lease_ends,
        (Edit(Snapshots, "former.close(self._lease.epoch)", "pass"),),
    ),
    "a workspace is never touched": (
        None,
        (
            Edit(
                Snapshots,
                "if held is not None:\n            self._replace(held, missing.note_change",
                "if False:\n            self._replace(held, missing.note_change",
            ),
        ),
    ),
    "a load of parts does not note changes": (
        part_stories.parts_change_while_they_are_read,
        (Edit(Snapshots, "load.touches.append((epoch, parts))", "pass"),),
    ),
    "a lost row leaves the loads of parts": (
        part_stories.the_row_is_lost_while_parts_are_read,
        (Edit(Snapshots, "load.void = True", "pass"),),
    ),
    "parts do not wait for memory": (
        part_stories.parts_are_ahead_when_the_lease_ends,
        (Edit(Snapshots, "await self._lease.reach(arrived.read.revision.epoch)", "True"),),
    ),
    "without a lease, another version is used": (
        key_stories.a_call_without_a_lease_has_an_old_version,
        (Edit(Snapshots, "held.version == version and ", ""),),
    ),
    "without a lease, another version is read": (None, (Edit(Snapshots, "if read.version == version else None", ""),)),
    "without a lease, nothing is missing": (
        part_stories.a_member_is_missing_when_the_lease_ends,
        (Edit(Snapshots, " and not held.lacks(user_id)", ""),),
    ),
    "a workspace is used though parts are missing": (None, (Edit(Snapshots, " or not snapshot.complete", ""),)),
    "what was read ahead is filled in before the changes that it has": (
        part_stories.a_change_is_overtaken_while_it_is_read_ahead,
        (Edit(Snapshots, "if ahead.arrived.read.revision.epoch <= self._lease.epoch:", "if True:"),),
    ),
}
"""By what each mistake says."""
