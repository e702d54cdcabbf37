"""The hash that tells a repeated request from another one under the same attempt's name.

The coordinator puts it into the header; the agent keeps it and compares, and never computes it
anew: protobuf promises one deterministic form per library and version only, so a coordinator in
another language may well come to other bytes. What counts is that the same sender, sending the
same arguments again, comes to the same hash. The sender does not store it: it computes it anew from
the stored intent, each time it sends. Should an upgrade of protobuf come to other bytes, a repeat
across it is refused as ATTEMPT_REUSED: nothing runs twice.
"""

from __future__ import annotations

import hashlib

from countermand.v1.agent_pb2 import CompensateRequest
from countermand.v1.verb_pb2 import Action


def request_hash(message: Action | CompensateRequest) -> bytes:
    """Returns the SHA-256 of a request's arguments; the header is no part of them."""
    if isinstance(message, CompensateRequest) and message.HasField("header"):
        arguments = CompensateRequest()
        arguments.CopyFrom(message)
        arguments.ClearField("header")
        return hashlib.sha256(arguments.SerializeToString(deterministic=True)).digest()
    return hashlib.sha256(message.SerializeToString(deterministic=True)).digest()
