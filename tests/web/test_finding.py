"""What an address asks for: a workflow by how its id begins, tasks by state, and no nonsense."""

from __future__ import annotations

import pytest

from tests.web import stories

# -- by the beginning of an id ---------------------------------------------------------------------


async def test_the_beginning_of_one_id_leads_to_its_workflow(reader) -> None:
    answer = await reader("/workflows/und")
    assert (answer.status, answer.headers["Location"]) == (302, "/workflows/undone")


async def test_the_beginning_of_several_ids_lists_what_begins_so(reader, client) -> None:
    for workflow_id in ("disk-1", "disk-2", "disk-21"):
        await client.submit(stories.asked(), workflow_id=workflow_id)
    page = await reader("/workflows/disk")
    assert page.status == 404
    assert "There is no workflow workflows/disk" in page.words
    assert "What begins so disk-21 ▸ running disk-2 ▸ running disk-1 ▸" in page.words
    assert {"/workflows/disk-1", "/workflows/disk-2", "/workflows/disk-21"} <= set(page.links)
    whole = await reader("/workflows/disk-2")  # although another one begins so
    assert "disk-2" in whole.part("name").words
    assert (await reader("/workflows/disk-9")).links.count("/workflows/disk-1") == 0


@pytest.mark.parametrize("path", ["/workflows", "/workflows/good", "/hosts", "/nowhere"])
async def test_every_page_finds_a_workflow(reader, path: str) -> None:
    page = await reader(path)
    assert 'action="/find"' in page.html
    assert '<input type="search" name="id"' in page.html


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("undone", "/workflows/undone"),
        ("%20und%20", "/workflows/undone"),
        ("workflows/undone", "/workflows/undone"),
        ("workflows/undone/tasks/data-disk", "/workflows/undone/tasks/data-disk"),
        ("", "/workflows"),
        ("s", "/workflows?id=s"),  # slow, and stuck
        ("nobody", "/workflows?id=nobody"),
    ],
)
async def test_what_is_searched_for_is_found_or_listed(reader, typed: str, found: str) -> None:
    answer = await reader(f"/find?id={typed}")
    assert (answer.status, answer.headers["Location"]) == (302, found)


async def test_a_list_is_narrowed_to_what_begins_so(reader) -> None:
    page = await reader("/workflows?id=s")
    assert set(page.workflows) == {"slow", "stuck"}
    assert '<input name="id" value="s"' in page.html
    assert "/workflows?state=failed&id=s" in page.links
    wrong = await reader("/find?id=What%3F")
    assert wrong.headers["Location"] == "/workflows?id=What%3F"
    assert (await reader("/workflows?id=What%3F")).status == 400


# -- nothing else ----------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["state=zzz", "state=failed&state=zzz"])
async def test_a_state_that_is_none_shows_no_tasks(reader, wrong: str) -> None:
    page = await reader(f"/workflows/undone/tasks?{wrong}")
    assert page.status == 400
    assert "state: 'zzz' is no state; there are: pending, ready" in page.words


async def test_tasks_of_several_states_are_shown_together(reader) -> None:
    page = await reader("/workflows/undone/tasks?state=failed&state=compensated")
    assert "Tasks: failed, compensated" in page.words
    rows = [id_ for id_ in page.ids if id_.startswith("task-")]
    assert {"task-data-disk", "task-swap-disk"} < set(rows)


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/workflows?bogus=1", "bogus: narrows nothing; there are: state, kind, label, id, host"),
        ("/workflows?older_than=5parsecs", "older_than: narrows nothing; there are: state"),
        ("/workflows?label=%3Dnorth", "label: '=north' is no label: write key=value"),
        ("/workflows/good/tasks?bogus=1", "bogus: narrows nothing; there are: state, after"),
    ],
)
async def test_what_narrows_nothing_is_not_taken_for_everything(reader, path, wrong) -> None:
    page = await reader(path)
    assert page.status == 400
    assert wrong in page.words
