"""What a task needs of a host, and which of several hosts it gets. Only values, no I/O.

The least loaded one that can do it gets a task; of equals, the first by its id, so that the same
state gives the same choice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from coordinator.runtime.ports import HostState
from coordinator.saga.spec import Binding, Value
from coordinator.saga.turn import HOST_FIELD, patched
from coordinator.saga.workflow import Inbound, Workflow
from coordinator.wire.arguments import READING
from coordinator.wire.catalogue import field_of
from coordinator.wire.values import fill
from countermand.rpc.names import is_custom_verb
from countermand.v1.agent_pb2 import HostReport
from countermand.v1.image_pb2 import ImageAddress, Pool
from countermand.v1.verb_pb2 import Action

POOLS_SHOWN_MAX = 6  # of each of those hosts
REASONS_SHOWN_MAX = 4  # hosts that are named when none is found: more, nobody reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a task needs of a host."""

    pools: frozenset[str]
    verb: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A host as a place for tasks."""

    host: str
    state: HostState
    draining: bool
    report: HostReport | None  # None until its agent was heard
    load: int  # attempts that are open there, or will be in a moment
    # Which storage each of its pools was when it was last heard, as the store keeps it.
    identities: Mapping[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Returns whether something may be sent there now."""
        return self.state is HostState.READY


def needs_of(workflow: Workflow, index: int) -> Needs:
    """Returns what the next attempt of a task needs, with its bindings as they stand now."""
    spec, task = workflow.plan.task(index), workflow.task(index)
    action = Action.FromString(spec.action)
    inbound = tuple(_inbound(workflow, binding) for binding in spec.bindings)
    fill(action, [each for each in patched(inbound, task.patch) if each.field != HOST_FIELD])
    arguments = getattr(action, field_of(spec.verb))
    pools = {
        getattr(arguments, field.name).pool_id
        for field in arguments.DESCRIPTOR.fields
        if field.message_type is ImageAddress.DESCRIPTOR
        and not (field.name == "source" and action.copy_image.source_host_id)
    }
    return Needs(pools=frozenset(pools - {""}), verb=spec.verb)


def _inbound(workflow: Workflow, binding: Binding) -> Inbound:
    value: Value = None  # what a failure says names no pool
    if binding.task:
        value = workflow.task(workflow.plan.by_name[binding.task]).output.get(binding.path)
    elif not binding.of_failure:
        patches = {patch.field: patch.value for patch in workflow.input_patches}
        value = patches.get(binding.path, workflow.about.input.get(binding.path))
    return Inbound(field=binding.field, value=value, origin=binding.origin)


def choose(
    offers: Collection[Offer], needs: Needs, *, named: Collection[str], avoid: Collection[str]
) -> str | None:
    """Returns the host that a task gets now; None if there is none.

    A draining host gets one only if the task names hosts, and every one of them that could do it
    is draining: the drain waits for it, and it must not wait for the drain.
    """
    able = [offer for offer in offers if problem_of(offer, needs) is None]
    if named:
        able = [offer for offer in able if offer.host in named]
    staying = [offer for offer in able if not offer.draining]
    ready = [
        offer
        for offer in (staying if staying or not named else able)
        if offer.ready and not failing(offer, needs)
    ]
    fresh = [offer for offer in ready if offer.host not in avoid]
    found = min(fresh or ready, key=lambda offer: (offer.load, offer.host), default=None)
    return found.host if found else None


def problem_of(offer: Offer, needs: Needs) -> str | None:
    """Returns why a host cannot do something, whatever its state; None if it can, or may."""
    if offer.report is None:
        return None  # it has not been heard yet: its agent will say
    if is_custom_verb(needs.verb) and needs.verb not in offer.report.custom_verbs:
        there = ", ".join(sorted(offer.report.custom_verbs)) or "none"
        return f"host {offer.host!r} has no plug-in for {needs.verb}; it has: {there}"
    reached = {pool.pool_id: pool for pool in offer.report.pools}
    if missing := sorted(needs.pools - set(reached) - {""}):
        return (
            f"host {offer.host!r} reaches no pool {missing[0]!r}; "
            f"it reaches: {', '.join(sorted(reached)) or 'none'}"
        )
    for pool in sorted(needs.pools & set(reached)):
        # A pool that is only read is a source, and asks nothing of its driver but to be read.
        if needs.verb == READING or reached[pool].read_only:
            continue
        if needs.verb not in reached[pool].verbs:
            able = ", ".join(sorted(reached[pool].verbs)) or "nothing"
            return f"host {offer.host!r} cannot {needs.verb} in pool {pool!r}; it can: {able}"
    return None


def failing(offer: Offer, needs: Needs) -> str:
    """Returns which of the pools that are needed does not serve on a host, and why; or nothing.

    Nothing is refused for it, since pools come back: it keeps new work away, and is asked anew.
    """
    for pool in offer.report.pools if offer.report is not None else ():
        if pool.pool_id in needs.pools and pool.HasField("problem"):
            return f"pool {pool.pool_id!r} fails on {offer.host} ({pool.problem.reason})"
    return ""


def choose_fencer(
    offers: Collection[Offer],
    lost: str,
    pools: Collection[str],
    wanted: str = "",
    asked: Collection[str] = (),
) -> tuple[str, str]:
    """Returns the host that settles an attempt of a lost one; or nothing, and why there is none.

    Draining is no hindrance: it gets nothing to do that would last. Those that were asked before
    are passed over, unless one is wanted.
    """
    known = {offer.host: offer for offer in offers}
    problems: list[str] = []
    for host in sorted({wanted} if wanted else known.keys() - {lost}):
        problem = _fence_problem(known.get(host), host, known.get(lost), lost, pools)
        if not problem and not wanted and host in asked:
            problem = f"{host} was asked, and cannot"
        if not problem:
            return host, ""
        if problem not in problems:
            problems.append(problem)
    if len(problems) > REASONS_SHOWN_MAX:
        problems[REASONS_SHOWN_MAX:] = [f"and {len(problems) - REASONS_SHOWN_MAX} more"]
    return "", "; ".join(problems) or "there is no other host"


def _fence_problem(
    offer: Offer | None, host: str, gone: Offer | None, lost: str, pools: Collection[str]
) -> str:
    if offer is None:
        return f"there is no {host}"
    if host == lost:
        return f"{host} is the one whose attempt it is"
    if not offer.ready or offer.report is None:
        return f"{host} is {offer.state.lower()}"
    reached = {pool.pool_id: pool for pool in offer.report.pools}
    for pool_id in sorted(pools):
        pool = reached.get(pool_id)
        if pool is None:
            return f"{host} reaches no pool {pool_id!r}"
        if not pool.shared or pool.read_only:
            how = "may only read it" if pool.read_only else "does not call it shared"
            return f"{host} reaches pool {pool_id!r}, and {how}"
        if problem := _storage_problem(pool, host, gone, lost):
            return problem
    return ""


def _storage_problem(pool: Pool, host: str, gone: Offer | None, lost: str) -> str:
    """Returns why a pool may be another storage than that of a lost host; empty if it is the same.

    Another one has nothing of the attempt, and would not keep it from going on.
    """
    pool_id = pool.pool_id
    before = {each.pool_id: each for each in gone.report.pools} if gone and gone.report else {}
    if pool_id in before and not before[pool_id].shared:
        return f"{lost} does not call its pool {pool_id!r} shared"
    identity = gone.identities.get(pool_id, "") if gone else ""
    if not identity:
        return f"which storage the pool {pool_id!r} of {lost} was, is not known"
    if not pool.identity:
        return f"which storage the pool {pool_id!r} of {host} is, is not known"
    if identity != pool.identity:
        return f"the pool {pool_id!r} of {host} is another storage than that of {lost}"
    return ""


def why_none(offers: Collection[Offer], needs: Needs, named: Collection[str]) -> str:
    """Returns why no host is found for a task, in words."""
    lead = f"no READY host can {needs.verb}"
    if needs.pools:
        pools = " and ".join(repr(pool) for pool in sorted(needs.pools))
        lead = f"no READY host reaches pool {pools}"
    known = {offer.host: offer for offer in offers}
    asked = sorted(named) if named else sorted(known)
    told = [_why_not(known.get(host), host, needs) for host in asked]
    if not told:
        told = ["there is no host yet"]
    elif len(told) > REASONS_SHOWN_MAX:
        told[REASONS_SHOWN_MAX:] = [f"and {len(told) - REASONS_SHOWN_MAX} more"]
    return "; ".join([lead, *told])


def _why_not(offer: Offer | None, host: str, needs: Needs) -> str:
    if offer is None:
        return f"there is no {host}"
    if offer.report is not None and needs.pools - {each.pool_id for each in offer.report.pools}:
        pools = sorted(pool.pool_id for pool in offer.report.pools)
        return f"{host} reaches {_listed(pools)}"  # which it does not, has been said
    if problem := problem_of(offer, needs):
        return problem.partition(";")[0].replace(f"host {host!r}", host)
    if offer.draining:
        return f"{host} is draining"
    if offer.ready and (fails := failing(offer, needs)):
        return fails
    return f"{host} is {offer.state.lower()}"


def _listed(pools: Sequence[str]) -> str:
    """Returns the first of some pools, and how many more there are."""
    more = len(pools) - POOLS_SHOWN_MAX
    rest = [f"{more} more"] if more > 0 else []
    return ", ".join([*map(repr, pools[:POOLS_SHOWN_MAX]), *rest]) or "no pool"


def nowhere(offers: Iterable[Offer], needs: Needs) -> str | None:
    """Returns why no host will do for something new; None if one does, or may."""
    offers = sorted(offers, key=lambda offer: offer.host)
    if not offers:
        return "there is no host yet: add one first"
    if any(not offer.draining and problem_of(offer, needs) is None for offer in offers):
        return None
    return why_none(offers, needs, ()).replace("READY host", "host")
