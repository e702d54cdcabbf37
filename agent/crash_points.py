"""The places where tests kill the agent, in the order in which an attempt passes them."""

from __future__ import annotations

from typing import Final

BEFORE_JOURNAL: Final = "agent.before_journal"
AFTER_JOURNAL: Final = "agent.after_journal"
IN_COPY: Final = "agent.in_copy"
BEFORE_RENAME: Final = "agent.before_rename"
AFTER_RENAME: Final = "agent.after_rename"
BEFORE_RECORD: Final = "agent.before_record"
AFTER_TOMBSTONE: Final = "agent.after_tombstone"
IN_COMPENSATION: Final = "agent.in_compensation"
AFTER_COMPENSATION: Final = "agent.after_compensation"

# What puts another data file in an image's place: the file is there, the label is not.
IN_REVERT: Final = "agent.in_revert"

# Only an agent that fences another's attempt passes it: the fence stands, nobody has been told.
AFTER_FENCE: Final = "agent.after_fence"

# Of a resize, between data and label: the data has grown and its label says nothing of it yet, or
# the label says less than there is. Whoever comes next makes the data as long as the label says.
IN_RESIZE: Final = "agent.in_resize"

# Of a snapshot that goes: its name is gone, and a tool merges what it held. The tool is run again.
IN_MERGE: Final = "agent.in_merge"
# It is merged, and the label still names it: a layer without a name may be missing from its place.
AFTER_MERGE: Final = "agent.after_merge"

# Of what a plug-in makes: it is there, and its id is written down nowhere. It is asked for again.
AFTER_VOLUME: Final = "agent.after_volume"

OF_ACTIONS: Final = (
    BEFORE_JOURNAL,
    AFTER_JOURNAL,
    IN_COPY,
    BEFORE_RENAME,
    AFTER_RENAME,
    BEFORE_RECORD,
)
OF_COMPENSATIONS: Final = (AFTER_TOMBSTONE, IN_COMPENSATION, AFTER_COMPENSATION)
# What a copy and its compensation pass.
ALL: Final = OF_ACTIONS + OF_COMPENSATIONS
