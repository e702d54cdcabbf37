"""What is sent: a CloudEvent 1.0 in its JSON format, with one event of the history as its data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

from google.protobuf import json_format
from google.protobuf.message import Message

from coordinator.runtime.ports import StoredEntry
from coordinator.runtime.webhooks import Origin, WebhookRecord
from coordinator.wire.event_types import fits, type_of
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.webhook_pb2 import WebhookEvent

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
TYPE_PREFIX = "io.countermand."
PING = f"{TYPE_PREFIX}webhook.ping"


@dataclass(kw_only=True)
class Envelope:
    """One event on its way, whoever it goes to; made into JSON once, and only if it goes."""

    cluster_id: str
    position: int  # its position in the history
    type: str  # what it is called, without the prefix
    event: HistoryEvent
    origin: Origin

    @property
    def id(self) -> str:
        """Returns what a repeat has as well, and nothing else ever.

        The time is part of it: a store that was put back to an earlier backup gives the same
        position to something else, and a receiver must not take that for a repeat.
        """
        micros = self.event.time.ToMicroseconds()
        return f"{self.cluster_id}-{self.event.position}-{micros:x}"

    @cached_property
    def body(self) -> bytes:
        """Returns the CloudEvent."""
        event, origin = self.event, self.origin
        attributes = {
            "id": self.id,
            "source": source(self.cluster_id),
            "type": TYPE_PREFIX + self.type,
            "subject": event.task or event.workflow,
            "time": event.time.ToJsonString(),
            # Of one source the greater text is the later event.
            "sequence": f"{event.position:019d}",
        }
        if origin.traceparent:
            attributes["traceparent"] = origin.traceparent
        data = WebhookEvent(event=event, labels=origin.labels, kind=origin.kind)
        return cloud_event(attributes, data)


def envelope(cluster_id: str, stored: StoredEntry, origin: Origin) -> Envelope:
    """Returns an entry of the history as it is sent."""
    event = HistoryEvent.FromString(stored.payload)
    event.position = stored.position
    return Envelope(
        cluster_id=cluster_id,
        position=stored.position,
        type=type_of(event),
        event=event,
        origin=origin,
    )


def wanted(webhook: WebhookRecord, sent: Envelope) -> bool:
    """Returns whether a webhook asks for an event."""
    return (
        fits(sent.type, webhook.event_types)
        and (not webhook.kind or webhook.kind == sent.origin.kind)
        and set(webhook.labels) <= set(sent.origin.labels.items())
    )


def source(cluster_id: str) -> str:
    """Returns where events come from."""
    return f"/countermand/clusters/{cluster_id}"


def cloud_event(attributes: dict[str, str], data: Message) -> bytes:
    """Returns a CloudEvent whose data is a message of the contract, with names as in the protos."""
    shown = json_format.MessageToDict(data, preserving_proto_field_name=True)
    whole = {
        "specversion": "1.0",
        **attributes,
        "datacontenttype": "application/json",
        "data": shown,
    }
    return json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()
