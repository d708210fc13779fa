"""The mistakes that an implementation of the two-level memory can make."""

from enum import Enum


class Mistake(Enum):
    """A mistake that an implementation can make. Each of them breaks the promise."""

    # What is kept
    READING_AN_OLDER_STATE = "a load may read a state older than the one applied"
    KEEPING_A_STATE_AHEAD = "what a load brings is kept although its state is not applied yet"
    KEEPING_AN_OVERTAKEN_KEY = "a key is kept although a change has touched it since"
    FILLING_A_TOUCHED_HOLE = "a hole is filled although a later change has touched the part"
    FILLING_A_COPY_OF_THE_BASE = "a load fills the snapshot for which it began, and that replaces the one in memory"
    NOT_RAISING_THE_LABEL = "a snapshot keeps its label when a hole is filled"
    SETTING_THE_VERSION_BACK = "a late load gives its version to a snapshot that has parts of a later one"
    KEEPING_LOADS_BEGUN_WITHOUT_A_LEASE = "what is loaded without a lease is kept"
    # What a change does
    CUTTING_A_TRANSACTION = "the epoch advances after the first of the touches of a transaction"
    MAKING_A_MEMBERS_HOLE_LATE = "the epoch advances before the hole of a member is made"
    IGNORING_A_MEMBER = "a change of a member is not applied"
    IGNORING_A_PART_BESIDE_ANOTHER = "of a change of hats and tools only the hats are applied"
    LEAVING_A_KEY_OPEN = "a change drops a key and does not close it"
    LEAVING_A_SNAPSHOT_OPEN = "a structural change makes a new snapshot and does not close the old one"
    CLOSING_AT_THE_CHANGE = "a piece is closed at the epoch of the change instead of the one before"
    SHARING_THE_MEMBERS = "the closed snapshot shares its members with the new one"
    # What else takes pieces out of memory
    EVICTING_WITHOUT_CLOSING = "a piece is evicted and stays open for the calls that hold it"
    LEAVING_OPEN_WHAT_IS_NOT_KEPT = (
        "what a load brings stays open for the calls that wait, though memory does not keep it"
    )
    DROPPING_WITHOUT_CLOSING = "a lost row clears memory and leaves the pieces open for the calls that hold them"
    KEEPING_KEYS_OF_A_LOST_ROW = "a lost row clears the snapshots only"
    KEEPING_SNAPSHOTS_OF_A_LOST_ROW = "a lost row clears the keys only"
    KEEPING_LOADS_OF_A_LOST_ROW = "the loads outlive the reader's row, and are kept"
    # How a call answers
    ANSWERING_BY_OPEN_PIECES = "two open pieces are enough for an answer, whatever their labels"
    ANSWERING_BY_EACH_PIECE = "each piece is new enough, but nothing asks whether they have an epoch in common"
    NOT_LOOKING_AGAIN = "a call answers by a piece that it saw open before it slept"
    NOT_LOOKING_AT_THE_BEGIN = "the epoch that was applied at the begin of a call does not matter"
    JOINING_AN_OVERTAKEN_LOAD = "a call answers by any load that it has joined, however old"
    COUNTING_OPEN_AS_INFINITE = "an open piece is taken to be good for every later epoch"
    COMBINING_BY_THE_LOAD = "loaded parts and their base are combined by the label and end of the load alone"
    COMBINING_WITH_AN_OPEN_END = "loaded parts that are open do not limit the end of what they are combined to"
    ANSWERING_WITHOUT_A_LEASE = "memory is used without a lease"
    USING_ANOTHER_VERSION = "without a lease, the snapshot in memory is used whatever its version"
    JOINING_KEY_LOADS_WITHOUT_A_LEASE = "without a lease, a call joins the load of a key"
