"""Opens channels: the options, retries and deadlines that every caller of ours uses.

Only calls that read are retried by themselves, and only on UNAVAILABLE: the request may have been
served when the answer was lost, so whoever changes something decides by id whether to repeat it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from countermand.rpc.credentials import Credentials

# A request is a plan and a small input; whatever is larger is a mistake or an attack. Answers come
# from a service we chose and may be a page of a thousand items: they get gRPC's usual bound.
REQUEST_BYTES_MAX = 256 * 1024
ANSWER_BYTES_MAX = 4 * 1024 * 1024

# Reads touch memory or one indexed query: 10 s is a database in trouble, and worth an error.
READ_TIMEOUT_S = 10.0
# A change waits for a group commit, and for a full queue in front of it.
CHANGE_TIMEOUT_S = 30.0
# What WaitWorkflow takes beyond the time it was asked to wait.
WAIT_SLACK_S = 10.0

# A peer that vanished without closing is noticed after 15 s: well before a lease of that length
# would let somebody else take over, and rare enough to cost nothing.
KEEPALIVE_TIME_S = 10
KEEPALIVE_TIMEOUT_S = 5
# After a restart people wait for the reconnect; gRPC's own maximum is two minutes.
RECONNECT_DELAY_S_MAX = 5
# So long may a peer take to say its first word, which a busy or far one does. One that is not there
# refuses at once, and is tried again as above.
CONNECT_TIMEOUT_S = 5

_READS = {
    "countermand.v1.WorkflowService": (
        "PlanWorkflow",
        "GetWorkflow",
        "ListWorkflows",
        "GetTask",
        "ListTasks",
        "ListEvents",
        "WaitWorkflow",
        "GetResumeRequirements",
    ),
    "countermand.v1.HostService": ("GetHost", "ListHosts"),
    # A heartbeat writes nothing. Of a connection that is full some may be refused.
    "countermand.v1.ExternalTaskService": (
        "ListExternalTasks",
        "ListExternalOwners",
        "HeartbeatExternalTasks",
    ),
    "countermand.v1.AgentService": (
        "GetAttempt",
        "ListAttempts",
        "Inspect",
        "ListImages",
        "GetHost",
    ),
}

_RETRIES = {
    "methodConfig": [
        {
            "name": [
                {"service": service, "method": method}
                for service, methods in _READS.items()
                for method in methods
            ],
            # In all at most about 0.7 s: enough for a hiccup, not for a restart, which the
            # caller should hear of.
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "0.4s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

# Of one among several. gRPC itself leaves out whoever says NOT_SERVING, but only below a policy
# that balances: so round_robin is asked for even where an address stands for one coordinator. It
# also connects again by itself, without a call that would have to wait for it; and of a name with
# several addresses it asks each in turn. Whoever has no health service is taken to serve.
_ONE_OF_SEVERAL = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "countermand.v1.WorkflowService"},
}

_SERVICE_CONFIG = json.dumps(_RETRIES)
_SERVICE_CONFIG_OF_SEVERAL = json.dumps(_RETRIES | _ONE_OF_SEVERAL)


# Bytes of a stream that may be on their way: what a fast network carries in a few milliseconds.
STREAM_AHEAD_BYTES = 8 * 1024 * 1024


def open_channel(
    address: str,
    *,
    request_bytes_max: int = REQUEST_BYTES_MAX,
    answer_bytes_max: int = ANSWER_BYTES_MAX,
    interceptors: Sequence[Any] = (),
    credentials: Credentials | None = None,
) -> grpc.aio.Channel:
    """Returns a channel to one service; it connects at the first call, and again by itself."""
    options = [*_options(request_bytes_max, answer_bytes_max), _ping_timeout()]
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options, interceptors=list(interceptors))
    return grpc.aio.secure_channel(
        address, credentials.for_channel(), options=options, interceptors=list(interceptors)
    )


def open_channel_of_several(
    address: str, *, credentials: Credentials | None = None
) -> grpc.aio.Channel:
    """Returns a channel to one of several coordinators, or to all that a name stands for.

    It is READY only while one is there that serves.
    """
    options = [
        *_options(REQUEST_BYTES_MAX, ANSWER_BYTES_MAX, _SERVICE_CONFIG_OF_SEVERAL),
        _ping_timeout(),
    ]
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials.for_channel(), options=options)


def open_stream_channel(address: str, *, credentials: Credentials | None = None) -> grpc.Channel:
    """Returns a channel for threads, to one long stream of data."""
    options = [
        *_options(REQUEST_BYTES_MAX, ANSWER_BYTES_MAX),
        ("grpc.http2.lookahead_bytes", STREAM_AHEAD_BYTES),
        ("grpc.http2.max_frame_size", 1024 * 1024),
    ]
    if credentials is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, credentials.for_channel(), options=options)


def _ping_timeout() -> tuple[str, int]:
    """Returns the option by which a peer that vanished is noticed: the keepalive's does not do it.

    gRPC waits a minute for the answer to a ping unless told. Of a stream of data that is right: the
    answer stands in line behind all that is on its way.
    """
    return "grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000


def _options(
    request_bytes_max: int, answer_bytes_max: int, service_config: str = _SERVICE_CONFIG
) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_send_message_length", request_bytes_max),
        ("grpc.max_receive_message_length", answer_bytes_max),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # Not a delay, whatever its name: what each attempt to connect has at least.
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_S * 1000),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_DELAY_S_MAX * 1000),
        ("grpc.service_config", service_config),
        ("grpc.enable_retries", 1),
        # A connection of its own, so that one channel's backoff is not another's.
        ("grpc.use_local_subchannel_pool", 1),
        # Proxies of the environment are for the web, not for hosts on a storage network.
        ("grpc.enable_http_proxy", 0),
    ]
