"""Every metric of the coordinator: what it is called, what it means, what it is told apart by.

The page, the reference in the documentation and the checks of alerts and dashboard are drawn from
these rows. Labels name what there are few of: hosts, owners (the busiest `OWNERS_MAX`), webhooks,
and the verbs that come with us; what vendors and plug-ins bring is `external` and `custom`.
"""

from __future__ import annotations

from countermand.rpc.metrics import EVERYWHERE, Kind, Row

OWNERS_MAX = 100  # beyond it the least busy are told together

# From a no-op to a copy that takes a night; of copies each twice the one before, so that a quantile
# is no guess.
DURATION_BUCKETS = (
    *(0.01, 0.1, 1.0, 5.0, 15.0, 75.0, 150.0, 300.0, 600.0),
    *(1200.0, 2400.0, 4800.0, 9600.0, 19200.0, 38400.0),
)
# A good disk flushes within a millisecond; seconds mean that it is about to fail.
COMMIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
DELAY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

WORKFLOWS = "countermand_workflows"
STARTED = "countermand_workflows_started_total"
SETTLED = "countermand_workflows_settled_total"
ATTENTION = "countermand_workflows_need_attention"
ATTENTION_OLDEST = "countermand_attention_oldest_seconds"
IN_LINE = "countermand_workflows_waiting_for_images"
IN_LINE_OLDEST = "countermand_image_wait_oldest_seconds"
WITH_LEFTOVERS = "countermand_workflows_with_leftovers"
LEFTOVERS = "countermand_leftovers_total"
TASKS = "countermand_tasks"
TASKS_ATTENTION = "countermand_tasks_need_attention"
ATTEMPTS = "countermand_attempts_total"
DURATIONS = "countermand_attempt_duration_seconds"
DONE = "countermand_attempt_done_bytes_total"
COMMITS = "countermand_commit_duration_seconds"
BATCHES = "countermand_commit_decisions"
COMMIT_FAILURES = "countermand_commit_failures_total"
DELAYS = "countermand_event_loop_delay_seconds"
WAITING = "countermand_loop_waiting"
OLDEST = "countermand_loop_oldest_wait_seconds"
HOST_UP = "countermand_host_up"
HOST_STATE = "countermand_host_state"
HOST_SILENT = "countermand_host_silent_seconds"
HOST_OPEN = "countermand_host_open_attempts"
HOST_WAITING = "countermand_host_waiting_attempts"
HOST_WINDOW = "countermand_host_window"
HOST_DRAINING = "countermand_host_draining"
POOL_CAPACITY = "countermand_host_pool_capacity_bytes"
POOL_USED = "countermand_host_pool_used_bytes"
POOL_FREE = "countermand_host_pool_free_bytes"
POOL_UP = "countermand_host_pool_up"
OWNER_WAITING = "countermand_owner_waiting_attempts"
OWNER_SILENT = "countermand_owner_silent_tasks"
WEBHOOK_BEHIND = "countermand_webhook_behind_events"
WEBHOOK_FAILURES = "countermand_webhook_failures_in_a_row"
WEBHOOK_DISABLED = "countermand_webhook_disabled"
TRACES_BEHIND = "countermand_traces_behind_events"
COORDINATORS = "countermand_coordinators"
KEEPS_HOUSE = "countermand_keeps_house"
SESSION_EXPIRES = "countermand_session_expires_seconds"
SESSIONS_ENDED = "countermand_sessions_ended_total"
ORPHANED = "countermand_workflows_orphaned"
CLAIMED = "countermand_workflows_claimed_total"
TAKEOVERS = "countermand_takeovers_total"
RECOVERY_REQUIRED = "countermand_recovery_required"
STORE_BYTES = "countermand_store_bytes"
STORE_POSITION = "countermand_store_events_total"


def _gauge(name: str, text: str, *labels: str) -> Row:
    return Row(name=name, kind=Kind.GAUGE, help=text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> Row:
    return Row(name=name, kind=Kind.COUNTER, help=text, labels=labels)


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Row:
    return Row(name=name, kind=Kind.HISTOGRAM, help=text, labels=labels, buckets=buckets)


TABLE = (
    _gauge(WORKFLOWS, "Open workflows by state.", "state"),
    _counter(STARTED, "Workflows that were started."),
    _counter(SETTLED, "Workflows that settled, by how: their verdict.", "state"),
    _gauge(
        ATTENTION,
        "Open workflows that wait for somebody: paused, blocked, quarantined, or with a task that"
        " needs a decision.",
    ),
    _gauge(
        ATTENTION_OLDEST,
        "How long the workflow or task has waited for somebody that has waited longest; 0: none.",
    ),
    _gauge(IN_LINE, "Workflows that have not begun: others hold the images that they name."),
    _gauge(IN_LINE_OLDEST, "How long the first of them has waited; 0: none does."),
    _gauge(
        WITH_LEFTOVERS,
        "Settled workflows that are still stored and list effects that were knowingly left.",
    ),
    _counter(LEFTOVERS, "Effects that were knowingly left, as they were recorded."),
    _gauge(TASKS, "Tasks of open workflows that have something going on, by state.", "state"),
    _gauge(TASKS_ATTENTION, "Tasks of open workflows that wait for somebody."),
    _counter(
        ATTEMPTS,
        "Attempts whose outcome was recorded; unknown ones count once more when that is known."
        " The verb is the one of the task's action, of compensations too.",
        "verb",
        "kind",
        "outcome",
    ),
    _histogram(
        DURATIONS,
        "How long attempts took, from their agent's or owner's acceptance to their outcome.",
        DURATION_BUCKETS,
        "verb",
        "kind",
    ),
    _counter(DONE, "Bytes that ended attempts have worked on.", "verb"),
    _histogram(
        COMMITS, "How long transactions took, from the loop to the disk and back.", COMMIT_BUCKETS
    ),
    _histogram(BATCHES, "How many decisions shared a transaction.", BATCH_BUCKETS),
    _counter(COMMIT_FAILURES, "Transactions that the store did not take; nothing of them is lost."),
    _histogram(
        DELAYS,
        "How late the event loop came to what was due; looked at 20 times a second.",
        DELAY_BUCKETS,
    ),
    _gauge(WAITING, "Requests and reports that the loop has not decided about."),
    _gauge(OLDEST, "How long the first of those that are being decided about has waited."),
    _gauge(HOST_UP, "1 while a host's agent answers and takes orders, else 0.", "host"),
    _gauge(HOST_STATE, "1 for the state in which a host is, as commands show it.", "host", "state"),
    _gauge(
        HOST_SILENT,
        "For how long a host that is not up was silent, since the coordinator began at most; 0"
        " while it is up.",
        "host",
    ),
    _gauge(HOST_OPEN, "Attempts that are out at a host: their outcome is still to come.", "host"),
    _gauge(HOST_WAITING, "Attempts that wait here for a slot on a host.", "host"),
    _gauge(HOST_WINDOW, "How many actions may be out at a host at once.", "host"),
    _gauge(HOST_DRAINING, "1 while a host gets no new tasks, else 0.", "host"),
    _gauge(
        POOL_CAPACITY,
        "What a pool may hold, by its quota too, as its host last said.",
        "host",
        "pool",
    ),
    _gauge(
        POOL_USED,
        "What our images take of that, as its host last said; other people's files are not in it.",
        "host",
        "pool",
    ),
    _gauge(
        POOL_FREE,
        "What may still be taken, of its quota and of what the storage has left, as its host last"
        " said; not of read-only pools.",
        "host",
        "pool",
    ),
    _gauge(POOL_UP, "1 while a host serves a pool, 0 while it says that it fails.", "host", "pool"),
    _gauge(OWNER_WAITING, "Attempts of external tasks that wait for their owner.", "owner"),
    _gauge(OWNER_SILENT, "External tasks whose owner should say something and does not.", "owner"),
    _gauge(WEBHOOK_BEHIND, "Events that a webhook's receiver has not been told of.", "webhook"),
    _gauge(WEBHOOK_FAILURES, "Calls of a webhook that failed since the last success.", "webhook"),
    _gauge(WEBHOOK_DISABLED, "1 once a receiver said that it is gone, else 0.", "webhook"),
    _gauge(TRACES_BEHIND, "Events that were not sent to the collector; only where there is one."),
    _gauge(
        COORDINATORS, "Coordinators that share the store, by state: each tells of all.", "state"
    ),
    _gauge(
        KEEPS_HOUSE,
        "1 at the coordinator that does what only one does for all: retention, webhooks, traces; at"
        " others 0, and nothing is told of webhooks.",
    ),
    _gauge(
        SESSION_EXPIRES,
        "How long this coordinator may still say nothing until others take over what it has, by its"
        " own clock; only where there may be others.",
    ),
    _counter(
        SESSIONS_ENDED,
        "Other coordinators that this one has seen end, stopped or lost; only where there may be"
        " others.",
    ),
    _gauge(
        ORPHANED,
        "Open workflows whose coordinator has ended and that no other has taken over: each tells of"
        " all.",
    ),
    _counter(
        CLAIMED,
        "Workflows that this coordinator has taken over from others; only where there may be"
        " others.",
    ),
    _counter(
        TAKEOVERS,
        "How often it took some over, up to a hundred at a time; only where there may be others.",
    ),
    _gauge(
        RECOVERY_REQUIRED,
        "1 while nothing is decided since the database went back in time, until an operator has"
        " looked; else 0: each tells of all.",
    ),
    _gauge(STORE_BYTES, "Size of the store's files."),
    _counter(STORE_POSITION, "Events ever written, also in earlier lives: the newest's position."),
    *EVERYWHERE,
)
