"""The client for owners of external tasks: take on what waits, say how far it is, end it.

    async with Owner("127.0.0.1:7700", "acme") as owner:
        await owner.serve({"clone-volume": Handler(start=clone, compensate=delete)})

`Owner` is for asyncio. `BlockingOwner` is the same for programs of threads: it runs an `Owner` on a
thread of its own. Both wait for a coordinator that is away, and go on where they were.
"""

from countermand.client.external.blocking import BlockingOwner, BlockingTask
from countermand.client.external.outcome import TaskFailed, TaskStopped
from countermand.client.external.owner import Owner
from countermand.client.external.serving import Handler
from countermand.client.external.task import AcceptedTask

__all__ = [
    "AcceptedTask",
    "BlockingOwner",
    "BlockingTask",
    "Handler",
    "Owner",
    "TaskFailed",
    "TaskStopped",
]
