"""What `host get` says of a pool that others have filled."""

from __future__ import annotations

from countermand.cli.host import _describe
from countermand.v1.host_pb2 import Host
from countermand.v1.image_pb2 import Pool

MIB = 2**20


def test_a_pool_that_others_have_filled_has_nothing_free(capsys):
    pool = Pool(pool_id="fast", driver="file", capacity_bytes=64 * MIB, free_bytes=MIB)
    _describe(Host(name="hosts/host-a", state=Host.STATE_READY, pools=[pool]))
    *_, heads, row = capsys.readouterr().out.splitlines()
    assert heads.split() == ["POOL", "DRIVER", "USED", "FREE", "VERBS"]
    assert row[heads.index("USED") :].startswith("0 B of 64.0 MiB")
    assert row[heads.index("FREE") :].startswith("1.00 MiB")
