"""The page in a real Chromium: nothing keeps people out, it moves by itself, and works without.

Screenshots of every page go to build/screenshots, in both schemes, to be looked at.
"""

from __future__ import annotations

import asyncio

from playwright.async_api import BrowserContext, Page, Route, expect

from tests.web import browsing, stories
from tests.web.browsing import NARROW, SCHEMES, SHOTS, WIDE, overflow, spilling, violations

pytestmark = browsing.needed

PAGES = {
    "workflows": "/workflows",
    "workflows-filtered": "/workflows?state=compensated&kind=add-vm-from-template",
    "succeeded": "/workflows/good",
    "compensated": "/workflows/undone",
    "paused": "/workflows/held",
    "blocked": "/workflows/stuck",
    "failed-with-leftovers": "/workflows/left",
    "waits-for-owner": "/workflows/asked",
    "task": "/workflows/undone/tasks/data-disk",
    "tasks": "/workflows/undone/tasks",
    "history": "/workflows/undone/events",
    "hosts": "/hosts",
    "host": "/hosts/host-b",
    "owners": "/owners",
    "owner": "/owners/acme",
    "webhooks": "/webhooks",
    "error": "/workflows/nothing",
    "begins-so": "/workflows/s",
    "narrowed-by-nothing": "/workflows?state=zzz",
}
IN_CARDS = ("workflows", "compensated", "host", "begins-so")
LATE_S = 0.3  # what a bad network may take longer for one file than for another
LIVE = "#live"


# -- everybody can read it -------------------------------------------------------------------------


async def test_nothing_keeps_people_out_of_any_page(tab: Page) -> None:
    """In both schemes; and looked at narrow, where rows become cards, as far as pages differ."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    await tab.set_viewport_size({"width": WIDE, "height": 900})
    for name, path in PAGES.items():
        await tab.goto(path, wait_until="load")
        assert await overflow(tab) <= 0, name
        assert await spilling(tab) == [], name
        for scheme in SCHEMES:
            await tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            await tab.screenshot(path=SHOTS / f"{name}-{scheme}.png", full_page=True)
            assert await violations(tab) == [], (name, scheme)
    await tab.set_viewport_size({"width": NARROW, "height": 900})
    for name in IN_CARDS:
        await tab.goto(PAGES[name], wait_until="load")
        await tab.screenshot(path=SHOTS / f"{name}-narrow.png", full_page=True)
        assert await overflow(tab) <= 0, name
        assert await violations(tab) == [], name


async def test_a_keyboard_reaches_the_content_first(tab: Page) -> None:
    await tab.goto("/workflows/undone")
    await tab.keyboard.press("Tab")
    skip = tab.get_by_role("link", name="Skip to the content")
    await expect(skip).to_be_focused()
    await expect(skip).to_be_in_viewport()
    await tab.keyboard.press("Enter")
    await expect(tab.locator("#main")).to_be_focused()
    await tab.keyboard.press("Tab")
    await expect(tab.get_by_role("link", name="add-vm-from-template")).to_be_focused()


async def test_the_drawing_is_a_list_to_who_does_not_see_it(tab: Page) -> None:
    await tab.goto("/workflows/undone")
    lane = tab.get_by_role("list", name="Compensations")
    await expect(lane.get_by_role("listitem")).to_have_count(3)
    bar = lane.get_by_role("img").first
    assert "makes up for attempt 1, succeeded" in (await bar.get_attribute("aria-label") or "")


async def test_everything_is_there_without_a_script(browser, cluster, web: str) -> None:
    context: BrowserContext = await browser.new_context(
        base_url=f"http://{web}", java_script_enabled=False
    )
    page = await context.new_page()
    await page.goto("/workflows")
    await page.get_by_role("link", name="Failed", exact=True).click()
    await page.get_by_role("link", name="undone", exact=True).click()
    await expect(page.get_by_text("What was made up for")).to_be_visible()
    await expect(page.locator("svg.cm")).to_be_visible()
    await page.goto("/workflows")
    await page.get_by_text("Filters").click()
    await page.get_by_label("Kind").fill("move-disk")
    await page.get_by_role("button", name="Filter").click()
    await expect(page.get_by_role("row").filter(has_text="stuck")).to_be_visible()
    assert page.url.endswith("kind=move-disk&host=&label=&older=")
    await context.close()


# -- it moves --------------------------------------------------------------------------------------


async def test_progress_moves_and_the_end_comes_by_itself(tab: Page, client) -> None:
    run = await client.submit(stories.slow("watched"), workflow_id="watched")
    await tab.goto("/workflows/watched")
    bar = tab.locator("#banner progress")
    await expect(bar).to_be_visible()
    before = await bar.get_attribute("value") or ""
    await expect(bar).not_to_have_attribute("value", before)
    await expect(tab.locator(LIVE)).to_have_text("▸ live")
    await tab.screenshot(path=SHOTS / "under-way.png", full_page=True)
    await run.cancel("seen enough")
    await expect(tab.locator("#name")).to_contain_text("compensated")
    await expect(tab.locator(LIVE)).to_have_text("✓ settled")
    await expect(tab.get_by_role("list", name="Compensations")).to_be_visible()


async def test_a_slow_script_does_not_keep_a_page_from_moving(tab: Page) -> None:
    """What listens may come much later than what it extends."""

    async def late(route: Route) -> None:
        await asyncio.sleep(LATE_S)
        await route.continue_()

    await tab.route("**/hx-sse-*", late)
    await tab.goto("/workflows/stuck")
    await expect(tab.locator(LIVE)).to_have_text("▸ live")


async def test_a_view_is_kept_under_a_name_and_forgotten(tab: Page) -> None:
    await tab.goto("/workflows?kind=move-disk")
    await tab.get_by_role("button", name="Keep this view").click()
    await tab.get_by_label("Name of the view").fill("Moves")
    await tab.keyboard.press("Enter")
    await tab.goto("/workflows")
    await tab.get_by_role("link", name="Moves").click()
    await expect(tab.get_by_role("link", name="Moves")).to_have_attribute("aria-current", "true")
    assert await violations(tab) == []
    await tab.get_by_role("button", name="Forget the view Moves").click()
    await expect(tab.get_by_role("link", name="Moves")).to_have_count(0)


async def test_a_lost_coordinator_is_said_and_comes_back(tab: Page, cluster) -> None:
    """The last of the file: the coordinator is killed, and started again."""
    await tab.goto("/workflows/stuck")
    live = tab.locator(LIVE)
    await expect(live).to_have_text("▸ live")
    await cluster.coordinator.kill()
    await expect(live).to_have_text("! connection lost, trying again")
    await tab.screenshot(path=SHOTS / "connection-lost.png")
    await cluster.coordinator.start()
    await expect(live).to_have_text("▸ live")
    await expect(tab.locator("#name")).to_contain_text("blocked")
