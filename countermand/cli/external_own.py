"""`countermand external start|add|finish|clear`: a vendor's own workflows, and tasks it adds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from countermand.cli.arguments import label_pair, pair
from countermand.cli.completion import complete_workflows
from countermand.cli.external_options import (
    POLICIES,
    doing,
    failure_of,
    failure_options,
    heartbeat_option,
    owner_option,
    with_token,
)
from countermand.cli.settings import Settings, Span, Whole, examples, shared_options

if TYPE_CHECKING:
    from countermand.cli.external_calls import Vendor
    from countermand.v1.external_task_pb2 import (
        AddExternalTaskResponse,
        StartExternalWorkflowResponse,
    )
    from countermand.v1.workflow_spec_pb2 import Policy

_Command = TypeVar("_Command", bound=Callable[..., Any])

WEIGHT_MAX = 1_000_000  # the contract's

_on_failure = click.option(
    "--on-failure", type=click.Choice(POLICIES), help="What the failure of a task makes of it."
)


def _what_and_whose(command: _Command) -> _Command:
    """Adds what is said of any external task."""
    kind = click.option("--kind", required=True, help="What it is, in the owner's own words.")
    description = click.option("--description", default="", help="For people.")
    return owner_option(kind(description(command)))


@click.command(
    epilog=examples(
        "countermand external start rebalance-7 --owner acme --kind array-rebalance",
        "countermand external start rebalance-7 --owner acme --kind array-rebalance "
        "--heartbeat 1m --label array=3 --keep",
    )
)
@click.argument("workflow_id", metavar="ID")
@_what_and_whose
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@click.option("--keep", is_flag=True, help="Never remove it by itself: `external clear` does.")
@_on_failure
@heartbeat_option
@shared_options()
@click.pass_obj
def start(
    settings: Settings,
    workflow_id: str,
    *,
    owner: str,
    kind: str,
    description: str,
    labels: tuple[str, ...],
    keep: bool,
    on_failure: str | None,
    heartbeat: timedelta | None,
) -> None:
    """Start a workflow of a vendor's own.

    It is seen beside all others, and has one task, main, that stands for the whole; further ones
    are added with `external add`. By default the failure of one ends it as failed, and what was
    done is kept. Repeating it is harmless. The token that is shown is needed to end it, and can be
    looked up while it is open.
    """
    pairs = dict(label_pair(label) for label in labels)

    async def work(vendor: Vendor) -> None:
        from countermand.v1.external_task_pb2 import StartExternalWorkflowRequest

        request = StartExternalWorkflowRequest(
            workflow_id=workflow_id,
            kind=kind,
            owner_id=owner,
            description=description,
            labels=pairs,
            policy=_policy(on_failure),
        )
        if keep:
            request.auto_clear = False
        if heartbeat is not None:
            request.heartbeat_timeout.FromTimedelta(heartbeat)
        method = vendor.calls.external_tasks.StartExternalWorkflow
        answer = await vendor.calls.change(method, request)
        follow = f"Follow it: countermand workflow watch {workflow_id}"
        made = f"Started {answer.workflow.name}. {follow}"
        _show(settings, answer, answer.workflow.name, made, f"{workflow_id}/main")

    doing(settings, work)


@click.command(
    epilog=examples(
        "countermand external add rebalance-7/main move-lun-3 --owner acme --kind move-lun",
        "countermand external add vm-42/copies mirror --owner acme --kind mirror-volume "
        "--effect reversible --arg volume=lun-7 --weight 3",
    )
)
@click.argument("parent", metavar="WORKFLOW[/PARENT]", shell_complete=complete_workflows)
@click.argument("task_id", metavar="TASK")
@_what_and_whose
@click.option(
    "--effect",
    type=click.Choice(("read-only", "reversible")),
    default="read-only",
    show_default=True,
    help="What it does to the world.",
)
@click.option("--checklist", default="", help="How people make up for it, instead of its owner.")
@click.option("--arg", "arguments", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@click.option("--after", multiple=True, metavar="TASK", help="A task of its group to come after.")
@click.option(
    "--weight",
    default=1,
    show_default=True,
    type=Whole(0, WEIGHT_MAX),
    help="Its share of the parent's progress.",
)
@click.option("--run-timeout", type=Span(), help="It must end within this.")
@_on_failure
@heartbeat_option
@with_token()
def add(
    settings: Settings,
    parent: str,
    task_id: str,
    *,
    owner: str,
    kind: str,
    description: str,
    effect: str,
    checklist: str,
    arguments: tuple[str, ...],
    after: tuple[str, ...],
    weight: int,
    run_timeout: timedelta | None,
    on_failure: str | None,
    heartbeat: timedelta | None,
    token: str,
) -> None:
    """Add a task to a workflow that is at work.

    PARENT is an open group, or an external task that is at work; without one it is the workflow's
    root. The task begins at once, unless it comes after others.
    """
    if checklist and effect != "reversible":
        raise click.UsageError("--checklist says how to make up for it: add --effect reversible")
    given = dict(pair(text, "--arg") for text in arguments)

    async def work(vendor: Vendor) -> None:
        from countermand.client.run import new_request_id
        from countermand.v1.annotation_pb2 import Effect
        from countermand.v1.external_task_pb2 import AddExternalTaskRequest

        place = await _parent(vendor, parent)
        request = AddExternalTaskRequest(
            parent=place,
            task_id=task_id,
            owner_id=owner,
            kind=kind,
            description=description,
            weight=weight,
            effect=Effect.Value(f"EFFECT_{effect.replace('-', '_').upper()}"),
            after=after,
            arguments=given,
            request_id=new_request_id(),
            capability_token=await vendor.token_of(place, token),
            on_failure=_policy(on_failure).on_failure,
        )
        if checklist:
            request.operator_checklist = checklist
        for name, span in (("heartbeat_timeout", heartbeat), ("run_timeout", run_timeout)):
            if span is not None:
                getattr(request, name).FromTimedelta(span)
        method = vendor.calls.external_tasks.AddExternalTask
        answer = await vendor.calls.change(method, request)
        where = f"{answer.task.name.split('/')[1]}/{task_id}"
        _show(settings, answer, answer.task.name, f"Added {answer.task.name}.", where)

    doing(settings, work)


@click.command(
    epilog=examples(
        "countermand external finish rebalance-7",
        "countermand external finish rebalance-7 --failed ARRAY_LOST --message 'array 3 is gone'",
        "countermand external finish rebalance-7 --force",
    )
)
@click.argument("workflow", metavar="WORKFLOW", shell_complete=complete_workflows)
@failure_options
@click.option("--force", is_flag=True, help="Close open tasks; once that was told, it is removed.")
@with_token()
def finish(
    settings: Settings, workflow: str, *, failed: str | None, message: str, force: bool, token: str
) -> None:
    """End a workflow of a vendor's own.

    It has succeeded unless --failed is given. Its tasks must have ended; --force closes those that
    are open, and leaves finished ones as they are; what an accepted one may have left is listed.
    """
    if failed is None and message:
        raise click.UsageError("--message says more about --failed REASON: add it")

    async def work(vendor: Vendor) -> None:
        from countermand.cli.steer import say_state
        from countermand.client.run import new_request_id
        from countermand.v1.external_task_pb2 import EndExternalWorkflowRequest

        found = await (await vendor.named(workflow)).get()
        request = EndExternalWorkflowRequest(
            name=found.name,
            succeeded=failed is None,
            force=force,
            request_id=new_request_id(),
            capability_token=await vendor.own_token(found, token),
        )
        if failed is not None:
            request.failure.CopyFrom(failure_of(failed, message))
        method = vendor.calls.external_tasks.EndExternalWorkflow
        say_state(settings, (await vendor.calls.change(method, request)).workflow)

    doing(settings, work)


@click.command(epilog=examples("countermand external clear rebalance-7 --token $TOKEN"))
@click.argument("workflow", metavar="WORKFLOW", shell_complete=complete_workflows)
@with_token()
def clear(settings: Settings, workflow: str, token: str) -> None:
    """Remove a vendor's own workflow that is settled.

    It need not wait for its retention time. Needs the token that `external start` has shown. One
    that is removed already is a success.
    """

    async def work(vendor: Vendor) -> None:
        from countermand.cli.output import show_done
        from countermand.rpc.errors import WorkflowNotFound
        from countermand.v1.external_task_pb2 import ClearExternalWorkflowRequest

        run = vendor.run(workflow)  # if it was removed before, which the coordinator knows
        with contextlib.suppress(WorkflowNotFound):
            run = await vendor.named(workflow)
        request = ClearExternalWorkflowRequest(name=run.name, capability_token=token)
        if not token:
            with contextlib.suppress(WorkflowNotFound):  # as above
                request.capability_token = await vendor.own_token(await run.get(), token)
        method = vendor.calls.external_tasks.ClearExternalWorkflow
        answer = await vendor.calls.change(method, request)
        show_done(settings, answer, run.name, f"Cleared {run.name}.")

    doing(settings, work)


async def _parent(vendor: Vendor, text: str) -> str:
    """Returns the whole name of a group, a task or a workflow."""
    if text.startswith("workflows/"):
        return text
    workflow_id, slash, task_id = text.partition("/")
    run = await vendor.named(workflow_id)
    return f"{run.name}/tasks/{task_id}" if slash else run.name


def _policy(on_failure: str | None) -> Policy:
    from countermand.v1.workflow_spec_pb2 import Policy

    if on_failure is None:
        return Policy()
    word = f"ON_FAILURE_{on_failure.replace('-', '_').upper()}"
    return Policy(on_failure=Policy.OnFailure.Value(word))


def _show(
    settings: Settings,
    answer: StartExternalWorkflowResponse | AddExternalTaskResponse,
    name: str,
    made: str,
    task: str,
) -> None:
    """Prints what was made, how its owner goes on, and its token."""
    from countermand.cli.output import show_message

    if settings.for_programs:
        show_message(settings, answer)
    elif settings.output == "name":
        click.echo(name)
    else:
        click.echo(made)
        click.echo(f"  accept it:  countermand external accept {task}")
        click.echo(f"  token:      {answer.capability_token}")
