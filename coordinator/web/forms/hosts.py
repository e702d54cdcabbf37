"""What people do about hosts: add and remove them, drain them, accept them as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from coordinator.web.forms.fields import Field, Form, reason
from coordinator.web.forms.serving import Deed, Given, Params
from coordinator.web.shown import host_url
from coordinator.web.site import Site
from countermand.drawing.phrases import count
from countermand.drawing.values import said
from countermand.drawing.words import host_look
from countermand.rpc.channel import CHANGE_TIMEOUT_S
from countermand.rpc.names import host_name
from countermand.v1.host_pb2 import (
    AcceptHostRequest,
    AddHostRequest,
    DrainHostRequest,
    Host,
    RemoveHostRequest,
)

HOST_ID, ADDRESS, UNREACHABLE = "host_id", "address", "unreachable_allowed"

_DRAINED: Final = frozenset({Host.STATE_DRAINING, Host.STATE_DRAINED})


def _form(host: Host, title: str, button: str, *, happens: Sequence[str], **more: object) -> Form:
    host_id = host.name.removeprefix("hosts/")
    return Form(
        title=title,
        about=host_id,
        back=host_url(host_id),
        button=button,
        happens=happens,
        fields=[reason()],
        basis=f"{host.state} {host.problem.reason} {host.incarnation}",
        **more,  # type: ignore[arg-type]
    )


async def _drain(site: Site, params: Params, _: Mapping[str, str]) -> Form:
    host = await site.calls.host(params["host"])
    happens = [
        "It gets no new tasks, and no new workflow may name it.",
        "Tasks of workflows that named it before still run there: its page lists what blocks.",
    ]
    if host.open_attempts:
        them = "ends by itself" if host.open_attempts == 1 else "end by themselves"
        happens.insert(1, f"{count(host.open_attempts, 'attempt')} in flight {them}.")
    done = f"It is {host_look(host.state).word} already." if host.state in _DRAINED else ""
    return _form(host, "Drain the host", "Drain", happens=happens, forbidden=done)


async def _undrain(site: Site, params: Params, _: Mapping[str, str]) -> Form:
    host = await site.calls.host(params["host"])
    not_so = "" if host.state in _DRAINED else f"It is {host_look(host.state).word}, not drained."
    happens = ["It gets tasks again, and workflows may name it again."]
    return _form(host, "Undrain the host", "Undrain", happens=happens, forbidden=not_so)


async def _accept(site: Site, params: Params, _: Mapping[str, str]) -> Form:
    host = await site.calls.host(params["host"])
    not_so = host.state != Host.STATE_QUARANTINED
    look = host_look(host.state).word
    happens = [
        "It is taken as it is now, with the journal and the pools that it has.",
        (
            "What its agent has lost counts as lost from then on: attempts whose outcome is open"
            " are asked for again, or sent again under the same names, and a compensation that"
            " finds nothing to make up for succeeds."
        ),
    ]
    warnings = [
        (
            "That is safe only if what is missing has gone for good: images in a pool that comes"
            " back later belong to nothing any more. If its old journal can be put back, do that."
        )
    ]
    if host.HasField("problem"):
        warnings.insert(0, said(host.problem))
    return _form(
        host,
        "Accept the host as it is",
        "Accept it",
        happens=happens,
        warnings=warnings,
        forbidden=f"It is {look}, not quarantined: there is nothing to accept." if not_so else "",
        is_grave=True,
    )


async def _send_drain(site: Site, params: Params, given: Given) -> str:
    return await _drained(site, params, given, undrain=False)


async def _send_undrain(site: Site, params: Params, given: Given) -> str:
    return await _drained(site, params, given, undrain=True)


async def _drained(site: Site, params: Params, given: Given, *, undrain: bool) -> str:
    request = DrainHostRequest(
        name=host_name(params["host"]),
        request_id=given.request_id,
        reason=given.reason,
        undrain=undrain,
    )
    await site.calls.unary(site.calls.hosts.DrainHost, request, timeout_s=CHANGE_TIMEOUT_S)
    return host_url(params["host"])


async def _send_accept(site: Site, params: Params, given: Given) -> str:
    name = host_name(params["host"])
    request = AcceptHostRequest(name=name, request_id=given.request_id, reason=given.reason)
    await site.calls.unary(site.calls.hosts.AcceptHost, request, timeout_s=CHANGE_TIMEOUT_S)
    return host_url(params["host"])


# -- which hosts there are -------------------------------------------------------------------------


async def _add(_: Site, __: Params, ___: Mapping[str, str]) -> Form:
    return Form(
        title="Add a host",
        about="Hosts",
        back="/hosts",
        button="Add it",
        happens=[
            "Its agent is asked who it is, and which pools it reaches.",
            "Once it is ready it gets tasks, and workflows may name it.",
        ],
        fields=[
            Field(
                name=HOST_ID,
                label="Id",
                hint="Small letters, digits, dot, dash, underscore; at most 63.",
                is_required=True,
            ),
            Field(
                name=ADDRESS,
                label="Address of its agent",
                hint="host:port, as the coordinator reaches it.",
                is_required=True,
            ),
            Field(
                name=UNREACHABLE,
                label="Add it even if it does not answer now",
                kind="tick",
                hint="It gets nothing until it does.",
            ),
        ],  # nobody is asked why: an addition has no reason in the contract
    )


async def _send_add(site: Site, _: Params, given: Given) -> str:
    request = AddHostRequest(
        host_id=given.typed.get(HOST_ID, "").strip(),
        address=given.typed.get(ADDRESS, "").strip(),
        request_id=given.request_id,
        unreachable_allowed=bool(given.typed.get(UNREACHABLE)),
    )
    added = await site.calls.unary(site.calls.hosts.AddHost, request, timeout_s=CHANGE_TIMEOUT_S)
    return host_url(added.host.name)


async def _remove(site: Site, params: Params, _: Mapping[str, str]) -> Form:
    host = await site.calls.host(params["host"])
    happens = [
        "No workflow may name it any more. Nothing on it is changed: images stay as they are.",
        "It is refused while an open workflow names it, which is then said.",
    ]
    return _form(host, "Remove the host", "Remove it", happens=happens, is_grave=True)


async def _send_remove(site: Site, params: Params, given: Given) -> str:
    name = host_name(params["host"])
    request = RemoveHostRequest(name=name, request_id=given.request_id, reason=given.reason)
    await site.calls.unary(site.calls.hosts.RemoveHost, request, timeout_s=CHANGE_TIMEOUT_S)
    return "/hosts"


DEEDS: Final[Sequence[Deed]] = (
    Deed(path="/hosts/{host}/drain", look=_drain, act=_send_drain, word="drained"),
    Deed(path="/hosts/{host}/undrain", look=_undrain, act=_send_undrain, word="undrained"),
    Deed(path="/hosts/{host}/accept", look=_accept, act=_send_accept, word="accepted"),
    Deed(path="/hosts/{host}/remove", look=_remove, act=_send_remove, word="removed"),
    Deed(
        path="/add-host",
        look=_add,
        act=_send_add,
        word="added",
        beside={"HOST_ID_TAKEN": HOST_ID, "AGENT_TAKEN": ADDRESS, "HOST_UNREACHABLE": ADDRESS},
    ),
)
