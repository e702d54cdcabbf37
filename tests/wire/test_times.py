"""Times as the contract writes them: by our own arithmetic, which must agree with protobuf's."""

from datetime import UTC, datetime, timedelta, timezone

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given
from hypothesis import strategies as st

from coordinator.wire.history import timestamp

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
# A day off either end: what another zone makes of it must still be a year of protobuf's.
TIMES = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=ZONES)  # noqa: DTZ001 - the zone is drawn


@given(TIMES)
@example(datetime(1970, 1, 1, tzinfo=UTC))
@example(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
@example(datetime(2026, 6, 1, 12, 0, 0, 1, tzinfo=UTC))
def test_a_timestamp_is_what_protobuf_would_make_of_the_time(time):
    expected = Timestamp()
    expected.FromDatetime(time)

    assert timestamp(time) == expected


def test_no_time_is_no_timestamp():
    assert timestamp(None) is None
