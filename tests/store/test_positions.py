"""What every store promises to readers of the whole history."""

from __future__ import annotations


async def test_a_reader_goes_on_where_it_was(live):
    store = live()
    await store.open()
    assert await store.position_of("traces") is None
    await store.note_position("traces", 7)
    await store.note_position("traces", 2**40)
    await store.note_position("another", 1)
    await store.close()

    store = live()
    await store.open()
    assert await store.position_of("traces") == 2**40
    assert await store.position_of("another") == 1
    await store.close()
