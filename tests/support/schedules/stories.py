"""All stories: what a schedule lets happen where chance alone would seldom get."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.schedules import key_stories, part_stories

if TYPE_CHECKING:
    from tests.support.schedules.schedule import Story

STORIES: tuple[Story, ...] = (
    key_stories.a_key_is_ahead_when_the_lease_ends,
    key_stories.a_key_is_ahead_of_the_parts,
    part_stories.parts_change_while_they_are_read,
    key_stories.a_key_is_revoked_before_its_first_use,
    key_stories.a_key_expires_in_memory,
    key_stories.a_key_expires_while_it_is_read,
    key_stories.a_key_is_suspended_in_memory,
    key_stories.a_suspended_key_is_resumed_and_revoked,
    key_stories.a_change_returns_because_the_row_is_removed,
    part_stories.a_change_touches_two_workspaces,
    part_stories.a_member_leaves_when_a_hat_moves,
    part_stories.parts_are_ahead_when_the_lease_ends,
    key_stories.a_key_is_loaded_ahead_of_memory,
    part_stories.contents_are_replaced_while_a_part_is_read,
    key_stories.a_key_changes_while_the_workspace_is_read,
    part_stories.the_row_is_lost_while_parts_are_read,
    key_stories.the_row_is_lost_when_a_key_arrives,
    key_stories.a_call_without_a_lease_has_an_old_version,
    part_stories.an_older_load_is_the_last,
    part_stories.a_member_is_missing_when_the_lease_ends,
    key_stories.a_key_changes_while_it_is_read,
    key_stories.keys_are_loaded_ahead_while_one_changes,
    key_stories.keys_are_loaded_ahead_before_memory_has_the_change,
    part_stories.a_change_is_overtaken_while_it_is_read_ahead,
    part_stories.a_call_comes_when_a_load_is_overtaken,
)
