"""Processes that are stopped for a while, and go on as if nothing had happened: SIGSTOP, SIGCONT.

Whatever the event loop would run in the context of a frozen node is held back, in its order: its
tasks stand where they are, its timers are late, answers to its calls and messages to it wait. It
goes on with what it knew, while everybody else has gone on without it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from tests.simulation.clock import VirtualLoop
from tests.simulation.nodes import Node, node_of


class _Held:
    """Something to run in a process, unless that is frozen."""

    __slots__ = ("args", "callback", "context", "handle", "loop", "node")

    def __init__(
        self,
        loop: FreezableLoop,
        node: Node,
        context: contextvars.Context,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
    ) -> None:
        self.loop = loop
        self.node = node
        self.context = context
        self.callback = callback
        self.args = args
        self.handle: asyncio.Handle | None = None  # what whoever asked for it may cancel

    def __call__(self) -> None:
        if self.handle is not None and self.handle.cancelled():
            return  # while it was held back
        if self.node.held is not None:
            self.node.held.append(self.release)
        else:
            self.callback(*self.args)

    def release(self) -> None:
        """Runs it next, unless the process is frozen again."""
        self.loop.run_held(self)


class FreezableLoop(VirtualLoop):
    """Virtual time in which single processes can stand still."""

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Runs something next, in the process of its context."""
        context = contextvars.copy_context() if context is None else context
        node = node_of(context)
        if node is None:
            return super().call_soon(callback, *args, context=context)
        held = _Held(self, node, context, callback, args)
        held.handle = super().call_soon(held, context=context)
        return held.handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Runs something at a time, in the process of its context."""
        context = contextvars.copy_context() if context is None else context
        node = node_of(context)
        if node is None:
            return super().call_at(when, callback, *args, context=context)
        held = _Held(self, node, context, callback, args)
        handle = super().call_at(when, held, context=context)
        held.handle = handle
        return handle

    def run_held(self, held: _Held) -> None:
        """Runs next what was held back."""
        super().call_soon(held, context=held.context)
