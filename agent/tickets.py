"""Tickets: short-lived proofs that one attempt of another host may read one image of this one.

Nothing is kept of a ticket: it is believed because this agent's own key has sealed it. The key lies
in the journal, so a ticket outlives a restart, and dies with the journal's incarnation.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from agent.journal import Transaction
from countermand.rpc.errors import TicketInvalid

# The coordinator brings another one every half minute for as long as an attempt is open, and a
# stream renews its own: this only has to outlast a coordinator's restart.
TICKET_VALID = timedelta(minutes=5)

# Why a ticket is refused. Of these only the first may be mended by waiting for another one.
EXPIRED = "it has expired"
FORGED = "it was not issued by this agent"

_KEY = "ticket_key"  # in the journal
_SEAL_BYTES = 32
_TICKET_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What a ticket says."""

    incarnation: str
    pool_id: str
    image_id: str
    attempt: str  # that reads
    expires: float  # seconds since the epoch, by this host's clock


class Tickets:
    """Issues and checks the tickets of one agent."""

    def __init__(self, key: bytes, *, incarnation: str, now: Callable[[], datetime]) -> None:
        """Believes what this key has sealed."""
        self._key = key
        self._incarnation = incarnation
        self._now = now

    def issue(self, *, pool_id: str, image_id: str, attempt: str) -> bytes:
        """Returns a ticket that is valid for TICKET_VALID."""
        ticket = Ticket(
            incarnation=self._incarnation,
            pool_id=pool_id,
            image_id=image_id,
            attempt=attempt,
            expires=(self._now() + TICKET_VALID).timestamp(),
        )
        said = json.dumps(asdict(ticket)).encode()
        return self._seal(said) + said

    def renew(self, ticket: Ticket) -> bytes:
        """Returns a ticket for the same that is valid for longer."""
        return self.issue(pool_id=ticket.pool_id, image_id=ticket.image_id, attempt=ticket.attempt)

    def check(self, ticket: bytes) -> Ticket:
        """Returns what a ticket says.

        Raises:
            TicketInvalid: It is not ours, or too old.
        """
        seal, said = ticket[:_SEAL_BYTES], ticket[_SEAL_BYTES:_TICKET_BYTES_MAX]
        if not hmac.compare_digest(seal, self._seal(said)):
            raise TicketInvalid(image="(unknown)", why=FORGED)  # nothing it says is believed
        found = Ticket(**json.loads(said))
        image = f"{found.pool_id}/{found.image_id}"
        if found.incarnation != self._incarnation:
            raise TicketInvalid(image=image, why=FORGED)
        if found.expires <= self._now().timestamp():
            raise TicketInvalid(image=image, why=EXPIRED)
        return found

    def _seal(self, said: bytes) -> bytes:
        return hmac.digest(self._key, said, "sha256")


def key_of(tx: Transaction) -> bytes:
    """Returns the key of this journal, made when it is first needed."""
    if not tx.meta(_KEY):
        tx.set_meta(_KEY, secrets.token_hex(_SEAL_BYTES))
    return bytes.fromhex(tx.meta(_KEY))
