"""All checks, in the order in which they are run."""

from __future__ import annotations

from countermand.sanity.checks import (
    cancelling,
    fields,
    header,
    listing,
    restarting,
    sharing,
    verbs,
    watching,
)
from countermand.sanity.promises import Area

AREAS: tuple[Area, ...] = (
    header.AREA,
    fields.AREA,
    verbs.AREA,
    listing.AREA,
    watching.AREA,
    cancelling.AREA,
    sharing.FENCES,
    sharing.SERVES,
    restarting.AREA,  # last: an agent that does not come back spoils nothing else
)
