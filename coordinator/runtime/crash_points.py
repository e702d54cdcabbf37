"""The places where tests kill the coordinator, each passed as often as its name says."""

BEFORE_COMMIT = "coordinator.before_commit"  # decided, nothing durable
AFTER_COMMIT = "coordinator.after_commit"  # durable, nobody told
AFTER_COMPENSATION_COMMIT = "coordinator.after_compensation_commit"  # its intent durable, not sent
BEFORE_SEND = "coordinator.before_send"  # about to call an agent
AFTER_SEND = "coordinator.after_send"  # the agent has answered, the answer is not taken up

# Passed by every workflow that does and makes up for something.
CRASH_POINTS = (
    BEFORE_COMMIT,
    AFTER_COMMIT,
    AFTER_COMPENSATION_COMMIT,
    BEFORE_SEND,
    AFTER_SEND,
)

HOST_CHOSEN = "coordinator.host_chosen"  # for a task that left it open; nothing of it is durable
LOCKS_PASSED_ON = "coordinator.locks_passed_on"  # a holder's end is durable, and who comes next
WAITS_FOR_SLOT = "coordinator.waits_for_slot"  # its intent is durable; its host's window is full

# Passed only where hosts are chosen, images are waited for, or a window is full.
CRASH_POINTS_OF_WAITS = (HOST_CHOSEN, LOCKS_PASSED_ON, WAITS_FOR_SLOT)

EVENT_TAKEN = "coordinator.event_taken"  # a receiver has it; how far it was told is not durable
EVENT_NOTED = "coordinator.event_noted"  # how far receivers were told is durable

# Passed only where webhooks are.
CRASH_POINTS_OF_WEBHOOKS = (EVENT_TAKEN, EVENT_NOTED)

SPANS_SENT = "coordinator.spans_sent"  # the collector has them; that is not durable
SPANS_NOTED = "coordinator.spans_noted"  # how far the history was sent as spans is durable

# Passed only where spans are sent.
CRASH_POINTS_OF_TRACES = (SPANS_SENT, SPANS_NOTED)
