"""A pool's room: what is used of it, what attempts have reserved, how fast it may be written to.

An attempt reserves what it is going to write before its first byte, so that it is refused at once
rather than in the middle, and never takes the room that another one counts on. What it writes comes
out of its reservation. The quota is kept exactly as a full disk would be: the write that would pass
it gets ENOSPC, whatever was reserved. Pools that share a file system do not know of each other's
reservations: running out all the same is a clean failure.

The account follows what this agent writes; it is corrected from the disk whenever a folder comes to
rest, so an error lasts no longer than one attempt. Nothing of it outlives the agent: what goes on
at the next start reserves anew, and what it had written is counted.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

# The longest wait between two looks at the cancel flag.
WAIT_S_MAX = 0.1

# A writer pays for so much at once, or for what may be written in a tenth of a second: else who
# writes in small pieces would wait as often as the others, for less.
PAID_BYTES = 4 * 1024 * 1024

# How much of a bandwidth that was not used may be made up for: as long as one slow write takes.
_CREDIT_S_MAX = 0.25

_BOUNDLESS = 1 << 62


class Shortage(Exception):
    """There is less room than was to be reserved."""

    def __init__(self, *, needed_bytes: int, left_bytes: int) -> None:
        """Keeps both."""
        self.needed_bytes, self.left_bytes = needed_bytes, left_bytes
        super().__init__(f"{needed_bytes} bytes are needed, {left_bytes} are left")


@dataclass(frozen=True, slots=True)
class _Account:
    """What one folder takes, and what it may grow to."""

    used: int = 0
    promised: int = 0

    @property
    def held(self) -> int:
        return max(self.used, self.promised)


_NOTHING = _Account()


class Room:
    """Accounts for the bytes of one pool; used from several threads."""

    def __init__(
        self,
        *,
        quota_bytes: int | None,
        bandwidth_bytes_per_s: int | None,
        storage_free: Callable[[], int] = lambda: _BOUNDLESS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins with an empty pool."""
        self.quota_bytes = quota_bytes
        self.bandwidth = Bandwidth(bandwidth_bytes_per_s, monotonic)
        self._storage_free = storage_free
        self._accounts: dict[str, _Account] = {}
        self._used = 0  # all that the accounts say, summed up
        self._held = 0
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """Returns the bytes in use."""
        with self._lock:
            return self._used

    @property
    def reserved_bytes(self) -> int:
        """Returns the bytes that attempts have reserved and not written yet."""
        with self._lock:
            return self._held - self._used

    def free_bytes(self) -> int:
        """Returns the bytes that may still be reserved; asks the storage."""
        storage = self._storage_free()
        with self._lock:
            return max(0, self._left(storage))

    def reserve(self, folder: str, total_bytes: int) -> None:
        """Makes sure that a folder may grow to so many bytes, until it is released or has gone.

        Raises:
            Shortage: The quota, or the storage, has less than that left.
        """
        storage = self._storage_free()  # which may take long
        with self._lock:
            account = self._accounts.get(folder, _NOTHING)
            needed, left = total_bytes - account.held, max(0, self._left(storage))
            if needed > left:
                raise Shortage(needed_bytes=needed, left_bytes=left)
            self._set(folder, replace(account, promised=max(account.promised, total_bytes)))

    def release(self, folder: str) -> None:
        """Gives back what a folder has reserved and not written; nothing is fine."""
        with self._lock:
            self._set(folder, replace(self._accounts.get(folder, _NOTHING), promised=0))

    def take(self, folder: str, size_bytes: int) -> None:
        """Takes room before it is written to, first from what the folder has reserved.

        Raises:
            OSError: ENOSPC, it would pass the quota.
        """
        with self._lock:
            account = self._accounts.get(folder, _NOTHING)
            after = replace(account, used=account.used + size_bytes)
            if self.quota_bytes is not None:
                held = self._held - account.held + after.held
                if held > self.quota_bytes and after.held > account.promised:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._set(folder, after)

    def settle(self, folder: str, size_bytes: int) -> None:
        """Sets what a folder really takes; 0 when it has gone, with what it had reserved."""
        with self._lock:
            promised = self._accounts.get(folder, _NOTHING).promised if size_bytes else 0
            self._set(folder, _Account(size_bytes, promised))

    def move(self, folder: str, to: str) -> None:
        """Follows the renaming of a folder: it is finished, or to be removed."""
        with self._lock:
            used = self._accounts.get(folder, _NOTHING).used
            self._set(folder, _NOTHING)
            self._set(to, _Account(used))

    def writing(self) -> Writer:
        """Returns one more writer: all of them share the bandwidth."""
        return Writer(self.bandwidth)

    def _left(self, storage: int) -> int:
        left = storage - (self._held - self._used)
        return left if self.quota_bytes is None else min(left, self.quota_bytes - self._held)

    def _set(self, folder: str, account: _Account) -> None:
        before = self._accounts.pop(folder, _NOTHING)
        self._used += account.used - before.used
        self._held += account.held - before.held
        if account != _NOTHING:
            self._accounts[folder] = account


class Bandwidth:
    """A bucket that fills as time passes, and that all writers of a pool draw from."""

    def __init__(self, bytes_per_s: int | None, monotonic: Callable[[], float]) -> None:
        """Begins with nothing to draw; without a limit nobody ever waits."""
        self.bytes_per_s = bytes_per_s
        self.monotonic = monotonic
        self._due: float | None = None  # when all that was drawn will have been there to be drawn
        self._lock = threading.Lock()

    def draw(self, size_bytes: int) -> float:
        """Draws so much; returns for how long whoever did so has to wait.

        Each waits for his own part, behind those who have drawn before him.
        """
        if self.bytes_per_s is None:
            return 0.0
        with self._lock:
            now = self.monotonic()
            due = now if self._due is None else max(self._due, now - _CREDIT_S_MAX)
            self._due = due + size_bytes / self.bytes_per_s
            return max(0.0, self._due - now)


class Writer:
    """Who writes to a pool, and keeps to its bandwidth."""

    def __init__(self, bandwidth: Bandwidth) -> None:
        """Begins without debts."""
        self.limit = bandwidth.bytes_per_s
        self._bandwidth = bandwidth
        self._pays_at = min(PAID_BYTES, (self.limit or 0) * WAIT_S_MAX)
        self._owes = 0

    def waits(self, size_bytes: int) -> list[float]:
        """Returns the waits that are due after a write, none longer than between two looks."""
        self._owes += size_bytes
        if self._owes == 0 or self._owes < self._pays_at:
            return []
        wait_s, self._owes = self._bandwidth.draw(self._owes), 0
        whole, rest = divmod(wait_s, WAIT_S_MAX)
        return [WAIT_S_MAX] * int(whole) + ([rest] if rest else [])
