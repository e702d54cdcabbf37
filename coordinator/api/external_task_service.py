"""ExternalTaskService: part of the contract, not served yet.

Nothing is overridden here: gRPC answers UNIMPLEMENTED for every call, and reflection shows them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from countermand.v1.external_task_pb2_grpc import ExternalTaskServiceServicer

if TYPE_CHECKING:  # the stubs declare every call abstract; at run time each answers by itself
    Base = object
else:
    Base = ExternalTaskServiceServicer


class ExternalTaskService(Base):
    """Will serve external tasks."""
