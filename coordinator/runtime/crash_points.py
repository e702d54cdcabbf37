"""The places where tests kill the coordinator, each passed as often as its name says."""

BEFORE_COMMIT = "coordinator.before_commit"  # decided, nothing durable
AFTER_COMMIT = "coordinator.after_commit"  # durable, nobody told
AFTER_COMPENSATION_COMMIT = "coordinator.after_compensation_commit"  # its intent durable, not sent
BEFORE_SEND = "coordinator.before_send"  # about to call an agent
AFTER_SEND = "coordinator.after_send"  # the agent has answered, the answer is not taken up

CRASH_POINTS = (
    BEFORE_COMMIT,
    AFTER_COMMIT,
    AFTER_COMPENSATION_COMMIT,
    BEFORE_SEND,
    AFTER_SEND,
)
