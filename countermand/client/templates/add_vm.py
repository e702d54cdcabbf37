"""Specs that engines ask for every day, ready to submit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from countermand.client.spec import image, parallel, policy, retry, sequence, task, workflow_spec
from countermand.rpc.errors import FieldInvalid, Violation
from countermand.v1.verb_pb2 import CopyImage
from countermand.v1.workflow_spec_pb2 import WorkflowSpec

# A copy fails for reasons that pass, such as a storage path that is being switched; three in a row
# are no accident.
COPY_ATTEMPTS_MAX = 3
COPY_RETRY_DELAY = timedelta(seconds=1)


def add_vm_from_template(
    disks: Sequence[tuple[str, str, str]], *, copies_max: int = 0
) -> WorkflowSpec:
    """Returns a spec that copies every disk of a template, all or none.

    Args:
        disks: (source, target, host) for each: images as "pool/image", and the host that copies.
        copies_max: Copies at the same time; 0 leaves it to the hosts.

    Raises:
        FieldInvalid: There is no disk, or an image is not written as "pool/image".
    """
    if not disks:
        raise FieldInvalid(Violation(field="disks", description="needs at least one"))
    copies = [
        task(
            f"copy-{number}",
            host=host,
            action=CopyImage(source=image(source), target=image(target)),
        )
        for number, (source, target, host) in enumerate(disks, start=1)
    ]
    return workflow_spec(
        "add-vm-from-template",
        sequence("add-vm", parallel("copies", *copies, concurrency_max=copies_max)),
        policy=policy(retry=retry(COPY_ATTEMPTS_MAX, delay=COPY_RETRY_DELAY)),
    )
