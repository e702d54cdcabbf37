"""Makes what a coordinator answers fit for people: every text of it, before anybody has it."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import replace
from typing import Any

from google.protobuf.message import Message

from countermand.rpc.errors import CountermandError, FieldInvalid, RequirementsUnmet
from countermand.rpc.visible import visible


def show(message: Message) -> None:
    """Makes every text of an answer visible, however deep it is."""
    for field, value in message.ListFields():
        if isinstance(value, str):
            if not value.isprintable():
                setattr(message, field.name, visible(value))
        elif isinstance(value, Message):
            show(value)
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            _show_map(value)
        elif field.message_type is not None:
            for each in value:
                show(each)
        elif field.type == field.TYPE_STRING:
            value[:] = [visible(each) for each in value]


def _show_map(fields: MutableMapping[Any, Any]) -> None:
    """Makes a map's values visible, and its keys."""
    for key in [key for key in fields if isinstance(key, str) and not key.isprintable()]:
        value = fields[key]
        if isinstance(value, Message):
            fields[visible(key)].CopyFrom(value)
        else:
            fields[visible(key)] = value
        del fields[key]
    for key, value in fields.items():
        if isinstance(value, Message):
            show(value)
        elif isinstance(value, str):
            fields[key] = visible(value)


def show_error(error: CountermandError) -> None:
    """Makes what an error says visible."""
    error.said = visible(error.message)
    error.metadata = {key: visible(value) for key, value in error.metadata.items()}
    if isinstance(error, FieldInvalid | RequirementsUnmet):
        error.violations = tuple(
            replace(each, field=visible(each.field), description=visible(each.description))
            for each in error.violations
        )


class Shown:
    """A channel whose answers are made visible as they arrive: nobody has to think of it later."""

    def __init__(self, channel: object) -> None:
        """Keeps the channel that carries the calls."""
        self._channel = channel

    def __getattr__(self, kind: str) -> Callable[..., object]:
        """Returns what makes calls of one kind, as a generated stub asks for it."""
        make = getattr(self._channel, kind)

        def made(
            method: str,
            *,
            response_deserializer: Callable[[bytes], Message],
            **more: Any,  # noqa: ANN401 - handed on as it came
        ) -> object:
            def read(content: bytes) -> Message:
                answer = response_deserializer(content)
                show(answer)
                return answer

            return make(method, response_deserializer=read, **more)

        return made
