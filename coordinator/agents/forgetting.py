"""Tells one host's agent which settled workflows it may forget, a few seconds after they settled.

What is to be told stands in the store, written with the change that settled each; it goes from
there once the agent has answered. If either side stops in between, it is told again: no harm done.
Only workflows all of whose intents there are below the low-watermark are named: see
`coordinator/runtime/watermark.py` for why nothing late of them can be taken for new then.
"""

from __future__ import annotations

import asyncio
import logging

from coordinator.agents.connection import CALL_TIMEOUT_S, Connection
from coordinator.agents.ears import Ears
from countermand.rpc.errors import CountermandError
from countermand.rpc.names import workflow_name
from countermand.v1.agent_pb2 import ForgetRequest

log = logging.getLogger(__name__)

FORGET_S = 5.0  # evidence that stays a little longer harms nobody
FORGET_MAX = 200  # workflows in one call: some kilobytes, and deleted within milliseconds
REST_S = 0.2  # between two calls when there is more: orders come first


async def forget_for_ever(
    connection: Connection, *, host: str, cluster_id: str, ears: Ears
) -> None:
    """Has an agent forget what it may, now and again, until cancelled."""
    rest_s = FORGET_S
    while True:
        await asyncio.sleep(rest_s)
        rest_s = FORGET_S
        try:
            if await forget(connection, host=host, cluster_id=cluster_id, ears=ears):
                rest_s = REST_S
        except CountermandError as error:  # the store's errors, too: it is told the next time
            log.info("forget.failed", extra={"host": host, "error": str(error)})


async def forget(connection: Connection, *, host: str, cluster_id: str, ears: Ears) -> bool:
    """Has an agent forget a batch of workflows; returns whether there may be more."""
    # First the watermark, then the rows: what settles in between is told the next time.
    low_watermark = ears.low_watermark(host)
    found = await ears.evidence(host, below=low_watermark, limit=FORGET_MAX)
    if not found:
        return False
    request = ForgetRequest(
        cluster_id=cluster_id, workflows=map(workflow_name, found), low_watermark=low_watermark
    )
    answer = await connection.call("Forget", request, timeout_s=CALL_TIMEOUT_S)
    # If the process stops here, the agent is told again, and has nothing left to forget.
    await ears.forgotten(host, found)
    extra = {"host": host, "workflows": len(found), "attempts": answer.forgotten}
    log.info("host.forgot", extra=extra)
    return len(found) == FORGET_MAX
