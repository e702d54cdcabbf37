"""What people do on the page, in a real Chromium: with a script and without, by keyboard, for all.

Screenshots of every form go to build/screenshots, in both schemes, to be looked at.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from playwright.async_api import BrowserContext, Page, expect

from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.api.vendors import vendor_at
from tests.web import browsing, stories
from tests.web.browsing import NARROW, SCHEMES, SHOTS, WIDE, overflow, violations

pytestmark = browsing.needed

PAUSED = WorkflowState.WORKFLOW_STATE_PAUSED
FORMS = {
    "form-pause": "/workflows/asked/pause",
    "form-cancel": "/workflows/held/cancel",
    "form-resume": "/workflows/held/resume",
    "form-resume-rerun": "/workflows/held/resume?task=swap-disk&decide=rerun",
    "form-resume-items": "/workflows/fanned/resume?task=disks&decide=rerun",
    "form-fork": "/workflows/good/fork",
    "form-compensation": "/workflows/stuck/tasks/made/compensation",
    "form-replacement": "/workflows/stuck/tasks/made/replacement",
    "form-fence": "/workflows/slow/tasks/crawls/fence",
    "form-end": "/workflows/own-array/end",
    "form-task-end": "/workflows/asked/tasks/clone-volume/end",
    "form-add-host": "/add-host",
    "form-add-webhook": "/add-webhook",
    "form-drain": "/hosts/host-a/drain",
    "form-undrain": "/hosts/host-b/undrain",
    "form-accept": "/hosts/host-a/accept",
    "form-remove": "/hosts/host-b/remove",
}
IN_A_COLUMN = ("form-cancel", "form-resume-rerun", "form-resume-items", "form-replacement")


async def looked_at(tab: Page, name: str) -> None:
    """Keeps a picture of what is shown, in both schemes, and lets nothing keep people out of it."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    assert await overflow(tab) <= 0, name
    for scheme in SCHEMES:
        await tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        await tab.screenshot(path=SHOTS / f"{name}-{scheme}.png", full_page=True)
        assert await violations(tab) == [], (name, scheme)


async def test_nothing_keeps_people_out_of_any_form(tab: Page, cluster, client) -> None:
    spec, given = stories.fanned("fanned", "base", "gone", "base", "never", "lost")
    await client.submit(spec, workflow_id="fanned", input=given)
    await stories.arrived(client, "fanned", PAUSED)
    async with vendor_at(cluster.coordinator.address) as vendor:
        await vendor.starts("own-array")
    await client.hosts.drain("host-b", reason="new disks")
    await tab.set_viewport_size({"width": WIDE, "height": 900})
    for name, path in FORMS.items():
        await tab.goto(path)
        await looked_at(tab, name)
    await client.hosts.undrain("host-b", reason="they are in")
    await tab.set_viewport_size({"width": NARROW, "height": 900})
    for name in IN_A_COLUMN:
        await tab.goto(FORMS[name])
        await tab.screenshot(path=SHOTS / f"{name}-narrow.png", full_page=True)
        assert await overflow(tab) <= 0, name
        assert await violations(tab) == [], name


async def test_nothing_keeps_people_out_of_a_form_that_was_not_taken(tab: Page, client) -> None:
    await client.submit(stories.asked(), workflow_id="moved-on")
    await tab.goto("/workflows/moved-on/pause")
    await tab.get_by_label("Reason").fill("the array is moved")
    await tab.context.clear_cookies()
    await tab.get_by_role("button", name="Pause").click()
    await expect(tab.get_by_role("alert")).to_contain_text("cookies are off")
    await looked_at(tab, "form-unsealed")
    await client.run("moved-on").cancel("another came first")
    await tab.get_by_role("button", name="Pause").click()
    await expect(tab.get_by_role("alert")).to_contain_text("It has changed since you looked")
    await looked_at(tab, "form-came-second")


async def test_a_failed_workflow_is_resumed_with_a_skip_that_needs_outputs(
    tab: Page, client
) -> None:
    """Watched live up to its pause; then decided, wrongly at first, and watched to its end."""
    await client.submit(stories.patient("story"), workflow_id="story")
    await tab.goto("/workflows/story")
    await expect(tab.locator("#name")).to_contain_text("paused")
    await expect(tab.locator("#timeline")).to_contain_text("swap-disk")
    await tab.screenshot(path=SHOTS / "story-paused.png", full_page=True)
    await tab.get_by_role("link", name="Resume").click()  # it came by itself, with the pause

    await expect(tab.get_by_role("group", name="swap-disk on host-b")).to_contain_text("NO_SPACE")
    await tab.get_by_role("radio", name="Skip it").check()
    await expect(tab.get_by_label("image.image_id", exact=True)).to_be_visible()
    await expect(tab.get_by_label("target.pool_id", exact=True)).to_be_hidden()
    await tab.get_by_role("button", name="Check what will happen").click()

    problems = tab.get_by_role("alert")
    await expect(problems).to_contain_text("This is not right yet")
    size = tab.get_by_label("virtual_size_bytes", exact=True)
    await expect(tab.get_by_label("image.image_id", exact=True)).to_be_focused()
    await expect(tab.get_by_role("radio", name="Skip it")).to_be_checked()
    await looked_at(tab, "story-not-right-yet")
    await problems.get_by_role("link", name="virtual_size_bytes").click()
    await expect(size).to_be_focused()

    await size.fill("1048576")
    await tab.get_by_label("image.image_id", exact=True).fill("story-twin")
    await tab.get_by_label("Reason").fill("copied by hand")
    await tab.get_by_role("button", name="Check what will happen").click()
    await expect(tab.get_by_role("row", name="virtual_size_bytes")).to_contain_text("1048576")
    await looked_at(tab, "story-checked")
    await tab.get_by_role("button", name="Resume").click()

    await expect(tab.get_by_text("Your resume was taken.")).to_be_visible()
    await expect(tab.locator("#name")).to_contain_text("succeeded")
    await expect(tab.locator("#history")).to_contain_text("copied by hand")
    await tab.screenshot(path=SHOTS / "story-succeeded.png", full_page=True)


async def test_another_is_cancelled_and_its_compensations_are_watched(tab: Page, client) -> None:
    await client.submit(stories.patient("unwanted"), workflow_id="unwanted")
    await stories.arrived(client, "unwanted", PAUSED)
    await tab.goto("/workflows/unwanted")
    await tab.get_by_role("link", name="Cancel", exact=True).click()
    await expect(tab.get_by_text("1 task will be compensated on host-a.")).to_be_visible()
    await tab.get_by_label("Reason").fill("not wanted any more")
    await tab.get_by_role("button", name="Cancel it").click()
    await expect(
        tab.get_by_text("Your cancel was taken. What it did is made up for.")
    ).to_be_visible()
    await expect(tab.locator("#name")).to_contain_text("compensated")
    await expect(tab.get_by_role("list", name="Compensations")).to_be_visible()
    await expect(tab.get_by_role("link", name="Cancel", exact=True)).to_have_count(0)
    await tab.screenshot(path=SHOTS / "story-cancelled.png", full_page=True)


async def test_a_compensation_is_decided_by_keyboard_alone(tab: Page, client) -> None:
    await client.submit(stories.stuck("keyed"), workflow_id="keyed")
    await stories.arrived(client, "keyed", WorkflowState.WORKFLOW_STATE_BLOCKED)
    await tab.goto("/workflows/keyed")
    await tab.locator("#actions").get_by_role("link", name="Decide about made").focus()
    await tab.keyboard.press("Enter")
    await expect(tab.get_by_text("Why it fails: The array is read-only")).to_be_visible()
    retry = tab.get_by_role("radio", name="Try again now")
    await retry.focus()
    await tab.keyboard.press("ArrowDown")
    done = tab.get_by_role("radio", name="It was made up for by hand")
    await expect(done).to_be_checked()
    await tab.keyboard.press("Tab")
    await tab.keyboard.type("deleted on the array")
    await tab.keyboard.press("Tab")
    await expect(tab.get_by_role("button", name="Send the decision")).to_be_focused()
    await tab.keyboard.press("Enter")
    await expect(tab.locator("#name")).to_contain_text("compensated")
    await tab.screenshot(path=SHOTS / "story-decided.png", full_page=True)


async def test_a_compensation_is_replaced_and_seen_before(tab: Page, client) -> None:
    """Every value that will be sent stands beside what was tried, in both schemes, by keyboard."""
    await client.submit(stories.stuck("swapped"), workflow_id="swapped")
    await stories.arrived(client, "swapped", WorkflowState.WORKFLOW_STATE_BLOCKED)
    await tab.goto("/workflows/swapped")
    stuck = tab.get_by_role("listitem").filter(has_text="noop, as its spec says")
    await stuck.get_by_role("link", name="Decide about made").click()
    await tab.get_by_role("link", name="Or replace it").press("Enter")
    await tab.get_by_role("radio", name="noop").focus()
    await tab.keyboard.press("ArrowUp")
    for _ in range(3):
        await tab.keyboard.press("ArrowUp")
    await expect(tab.get_by_role("radio", name="delete image")).to_be_checked()
    target = tab.get_by_role("group", name="delete image").get_by_label("target.image_id")
    await expect(target).to_have_value("swapped")
    await expect(tab.get_by_label("failure_message")).to_be_hidden()
    await tab.get_by_label("Reason").fill("the array is writable again")
    await tab.get_by_role("button", name="Check what will happen").press("Enter")
    await expect(tab.get_by_text("Instead of “noop, as its spec says”")).to_be_visible()
    await expect(tab.get_by_role("row", name="target.image_id")).to_contain_text("swapped")
    await looked_at(tab, "story-replaced")
    await tab.get_by_role("button", name="Replace it").press("Enter")
    await expect(tab.get_by_text("Your replacement was taken")).to_be_visible()
    await expect(tab.locator("#name")).to_contain_text("compensated")


async def test_items_are_chosen_without_a_script(browser, cluster, client, web: str) -> None:
    spec, given = stories.fanned("ticked", "base", "gone", "never")
    await client.submit(spec, workflow_id="ticked", input=given)
    await stories.arrived(client, "ticked", PAUSED)
    context: BrowserContext = await browser.new_context(
        base_url=f"http://{web}", java_script_enabled=False
    )
    page = await context.new_page()
    await page.goto("/workflows/ticked")
    await page.get_by_role("link", name="Resume").click()
    await page.get_by_role("link", name="Decide about all that failed in disks at once").click()
    await page.get_by_role("radio", name="Run again all 2 failed items").check()
    await page.get_by_role("checkbox", name="Item 1: copy.1").check()
    await page.get_by_role("checkbox", name="Skip the failed items").check()
    await page.get_by_label("source.image_id").fill("base")
    await page.get_by_label("Reason").fill("it has another name")
    await page.get_by_role("button", name="Check what will happen").click()
    await expect(page.get_by_text("Item 1 of disks runs again.")).to_be_visible()
    await expect(page.get_by_text("copy.2 is skipped.")).to_be_visible()
    changed = page.get_by_role("row", name="copy.1 source.image_id")
    await expect(changed).to_contain_text("base")
    await page.go_back()
    await page.go_forward()  # and is not asked whether to send it again
    await expect(changed).to_contain_text("base")
    await page.get_by_role("button", name="Resume").click()
    await stories.arrived(client, "ticked", WorkflowState.WORKFLOW_STATE_SUCCEEDED)
    await context.close()


async def test_a_form_is_filled_in_without_a_script(browser, cluster, client, web: str) -> None:
    await client.submit(stories.patient("plain"), workflow_id="plain")
    await stories.arrived(client, "plain", PAUSED)
    context: BrowserContext = await browser.new_context(
        base_url=f"http://{web}", java_script_enabled=False
    )
    page = await context.new_page()
    await page.goto("/workflows/plain")
    await page.get_by_role("link", name="Resume").click()
    await page.get_by_role("button", name="Check what will happen").click()
    await expect(page.get_by_role("alert")).to_contain_text("choose one")
    await expect(page.get_by_role("radio", name="Run it again")).to_be_focused()
    await page.get_by_role("radio", name="Run it again").check()
    await page.get_by_label("target.pool_id", exact=True).fill("pool-a")
    await page.get_by_label("Host", exact=True).select_option("host-a")
    await page.get_by_label("Reason").fill("moved")
    await page.get_by_role("button", name="Check what will happen").click()
    await expect(page.get_by_text("swap-disk runs again on host-a.")).to_be_visible()
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_text("Your resume was taken.")).to_be_visible()
    await stories.arrived(client, "plain", WorkflowState.WORKFLOW_STATE_SUCCEEDED)
    await context.close()


async def test_a_downloaded_workflow_opens_without_a_network(
    browser, tab: Page, tmp_path: Path
) -> None:
    await tab.goto("/workflows/undone")
    async with tab.expect_download() as begun:
        await tab.get_by_role("link", name="Download").click()
    saved = await (await begun.value).path()
    with zipfile.ZipFile(saved) as file:
        file.extract("undone/page.html", tmp_path)
    context: BrowserContext = await browser.new_context(offline=True)
    page = await context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.goto((tmp_path / "undone/page.html").as_uri())
    await expect(page.get_by_role("heading", level=1)).to_contain_text("compensated undone")
    await expect(page.locator("svg.cm")).to_be_visible()
    await looked_at(page, "bundle")
    assert len(asked) == 1
    await context.close()


async def test_a_second_click_sends_nothing_more(tab: Page, client) -> None:
    await client.submit(stories.asked(), workflow_id="clicked")
    await tab.goto("/workflows/clicked/pause")
    await tab.get_by_label("Reason").fill("twice")
    await tab.get_by_role("button", name="Pause").dblclick()
    await expect(tab.locator("#name")).to_contain_text("paus")
    events = [event async for event in client.run("clicked").events()]
    assert [e.intervention.reason for e in events if e.HasField("intervention")] == ["twice"]
    await tab.go_back()  # what is shown is of now, not of then
    await expect(tab.get_by_text("there is nothing to pause")).to_be_visible()
    await client.run("clicked").cancel("over")
