"""Custom: does what a plug-in of this host knows; made up for by the same plug-in.

What a plug-in gets and gives is checked here, so that the rest of the agent need not trust it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from google.protobuf.struct_pb2 import Struct
from google.protobuf.struct_pb2 import Value as ProtoValue

from agent.closed import driver_of
from agent.drivers.driver import Driver, Step, Steps
from agent.verbs.context import Context
from agent.verbs.plugins import Effect, Json, MakesUp, Plugins, Request, Scalar, VerbType
from countermand.rpc.errors import (
    CountermandError,
    FieldInvalid,
    PoolFailing,
    PoolNotFound,
    PoolReadOnly,
    VerbUnsupported,
    Violation,
)
from countermand.rpc.names import VERB_RULE, is_custom_verb
from countermand.v1 import annotation_pb2
from countermand.v1.verb_pb2 import Action, Custom, CustomOutput, Output

log = logging.getLogger(__name__)

# What is kept with each attempt, in both journals; larger things belong into an image.
STRUCT_BYTES_MAX = 16 * 1024

_NUMBERS = {
    Effect.READ_ONLY: annotation_pb2.EFFECT_READ_ONLY,
    Effect.REVERSIBLE: annotation_pb2.EFFECT_REVERSIBLE,
    Effect.PIVOT: annotation_pb2.EFFECT_PIVOT,
    Effect.FORWARD_ONLY: annotation_pb2.EFFECT_FORWARD_ONLY,
}


def custom(plugin: VerbType, context: Context, action: Action) -> Steps[Output]:
    """Does what the plug-in knows."""
    values = yield from plugin.act(context, request_of(action.custom))
    return Output(custom=CustomOutput(values=struct_of(values)))


def uncustom(plugin: VerbType, context: Context, action: Action, made_by: str) -> Steps[None]:
    """Has the plug-in take back what that attempt did; of what only read there is nothing."""
    if isinstance(plugin, MakesUp) and plugin.effect is Effect.REVERSIBLE:
        yield from plugin.make_up(context, request_of(action.custom), made_by)
    else:
        yield Step()


def can_uncustom(plugin: VerbType) -> bool:
    """Returns whether a plug-in leaves nothing that cannot be made up for."""
    return plugin.effect in (Effect.READ_ONLY, Effect.REVERSIBLE)


# -- what is refused beforehand -----------------------------------------------------------------


def check_custom(request: Custom) -> Iterator[Violation]:
    """Yields what no plug-in could do."""
    if not is_custom_verb(request.verb):
        yield Violation("custom.verb", VERB_RULE)
    if request.effect not in _NUMBERS.values():
        yield Violation("custom.effect", "is required: what the verb's plug-in declares")
    if (size := request.arguments.ByteSize()) > STRUCT_BYTES_MAX:
        rule = f"has {size} bytes, more than {STRUCT_BYTES_MAX}"
        yield Violation("custom.arguments", rule)


def refuse_custom(
    request: Custom, pools: Mapping[str, Driver], plugins: Plugins
) -> CountermandError | None:
    """Returns why this host cannot do it, or None."""
    plugin = plugins.get(request.verb)
    pool = request.target.pool_id or request.source.pool_id or "(none)"
    if plugin is None:
        why = "no plug-in of this host serves it"
        return VerbUnsupported(pool=pool, verb=request.verb, why=why)
    try:
        violations = list(_violations(request, plugin))
    except Exception as error:  # it is somebody else's code, and nothing has begun
        log.exception("verb.defect", extra={"verb": request.verb})
        why = f"its plug-in cannot read the arguments: {type(error).__name__}: {error}"
        return VerbUnsupported(pool=pool, verb=request.verb, why=why)
    if violations:
        return FieldInvalid(*violations)
    for address, needed in ((request.source, plugin.source), (request.target, plugin.target)):
        if needed is None:
            continue
        try:
            driver = driver_of(pools, address.pool_id)
        except (PoolNotFound, PoolFailing) as error:
            return error
        if not isinstance(driver, needed):
            why = f"its driver is none that {needed.__name__.lower()}"
            return VerbUnsupported(pool=address.pool_id, verb=request.verb, why=why)
        changes = needed is plugin.target and plugin.effect is not Effect.READ_ONLY
        if driver.config.read_only and changes and address is request.target:
            return PoolReadOnly(pool=address.pool_id)
    return None


def _violations(request: Custom, plugin: VerbType) -> Iterator[Violation]:
    if request.effect != _NUMBERS[plugin.effect]:
        yield Violation("custom.effect", f"must be EFFECT_{plugin.effect}, as its plug-in says")
    for name, given, needed in (
        ("source", request.HasField("source"), plugin.source),
        ("target", request.HasField("target"), plugin.target),
    ):
        if given and needed is None:
            yield Violation(f"custom.{name}", f"must be left out: {request.verb} takes none")
        elif not given and needed is not None:
            yield Violation(f"custom.{name}", f"is required by {request.verb}")
    for key, rule in plugin.check(request_of(request).arguments).items():
        yield Violation(f"custom.arguments.{key}", rule)


# -- what a plug-in gets and gives ----------------------------------------------------------------


def request_of(custom: Custom) -> Request:
    """Returns what a plug-in is asked for."""
    arguments = {key: _json(value) for key, value in custom.arguments.fields.items()}
    return Request(source=custom.source, target=custom.target, arguments=arguments)


def _json(value: ProtoValue) -> Json:
    match value.WhichOneof("kind"):
        case "struct_value":
            return {key: _json(below) for key, below in value.struct_value.fields.items()}
        case "list_value":
            return [_json(item) for item in value.list_value.values]
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def struct_of(values: Mapping[str, object]) -> Struct:
    """Returns what a plug-in left, to be kept.

    Raises:
        ValueError: It is not what the contract allows. The verb has taken effect by then, so that
            its attempt is UNKNOWN until the plug-in is mended.
    """
    struct = Struct()
    for key, value in values.items():
        if not isinstance(value, Scalar) or not key or "." in key:
            raise ValueError(f"value {key!r} must be a text, a number, true or false")
        struct[key] = value
    if struct.ByteSize() > STRUCT_BYTES_MAX:
        raise ValueError(f"its values have more than {STRUCT_BYTES_MAX} bytes")
    return struct
