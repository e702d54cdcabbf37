"""VerifyImage: reads an image and says whether it is whole; there is nothing to make up for."""

from __future__ import annotations

from agent.drivers.driver import Step, Steps, Verifies
from agent.verbs.context import Context
from countermand.v1.verb_pb2 import Action, Output, VerifyImageOutput


def verify_image(context: Context, action: Action) -> Steps[Output]:
    """Checks an image's chain, its tables and its digest, as far as its format has them."""
    request = action.verify_image
    found = yield from context.pool_for(request.target, Verifies).verify(
        request.target.image_id, digest=request.digest
    )
    return Output(verify_image=VerifyImageOutput(digest=found))


def unverify_image(context: Context, action: Action, made_by: str) -> Steps[None]:  # noqa: ARG001 - as every verb
    """Makes up for nothing."""
    yield Step()
