"""Workflows that people ask for every day: data files, each for any number of disks.

    template = load("move-disk")
    given = template.fill({"disks": [{"source": "slow/disk-1", "target": "fast/disk-1"}]})
    await client.submit(template.spec(), workflow_id="move-1", input=given)

One immutable spec serves every submit; only the input differs. `docs/reference/templates.md` has
each of them, and the form of such a file.
"""

from countermand.client.templates.add_vm import add_vm_from_template
from countermand.client.templates.shipped import Template, load, names, read_template

__all__ = ["Template", "add_vm_from_template", "load", "names", "read_template"]
