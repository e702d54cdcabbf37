"""A pool's room: its quota, and how fast it may be written to.

The quota is kept exactly as a full disk would be: the write that would pass it gets ENOSPC. The
account follows what this agent writes; it is corrected from the disk whenever a folder comes to
rest, so an error lasts no longer than one attempt.
"""

from __future__ import annotations

import errno
import os
import threading

# The longest wait between two looks at the cancel flag.
WAIT_S_MAX = 0.1


class Room:
    """Accounts for the bytes of one pool; used from several threads."""

    def __init__(self, *, quota_bytes: int | None, bandwidth_bytes_per_s: int | None) -> None:
        """Begins with an empty pool."""
        self.quota_bytes = quota_bytes
        self._bandwidth = bandwidth_bytes_per_s
        self._used: dict[str, int] = {}
        self._writers = 0
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """Returns the bytes in use."""
        with self._lock:
            return sum(self._used.values())

    def take(self, folder: str, size_bytes: int) -> None:
        """Takes room before it is written to.

        Raises:
            OSError: ENOSPC, it would pass the quota.
        """
        with self._lock:
            if self.quota_bytes is not None:
                used = sum(self._used.values())
                if used + size_bytes > self.quota_bytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._used[folder] = self._used.get(folder, 0) + size_bytes

    def settle(self, folder: str, size_bytes: int) -> None:
        """Sets what a folder really takes; 0 when it has gone."""
        with self._lock:
            if size_bytes:
                self._used[folder] = size_bytes
            else:
                self._used.pop(folder, None)

    def move(self, folder: str, to: str) -> None:
        """Follows the renaming of a folder."""
        with self._lock:
            self._used[to] = self._used.pop(folder, 0)

    def join_writers(self) -> None:
        """Counts one more writer: all of them share the bandwidth."""
        with self._lock:
            self._writers += 1

    def leave_writers(self) -> None:
        """Counts one writer less."""
        with self._lock:
            self._writers -= 1

    def waits(self, size_bytes: int) -> list[float]:
        """Returns the waits after a write that keep the pool to its bandwidth.

        The time that the write itself took is not taken off: a limit is a ceiling, and no clock is
        needed this way.
        """
        if self._bandwidth is None:
            return []
        wait_s = size_bytes * max(1, self._writers) / self._bandwidth
        whole, rest = divmod(wait_s, WAIT_S_MAX)
        return [WAIT_S_MAX] * int(whole) + [rest]
