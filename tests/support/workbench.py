"""The Workbench by the names of its parts: the stage, and the tiles of the gallery."""

from playwright.sync_api import Locator, Page, Request, expect


def staged(page: Page, id_: object) -> Locator:
    """The stage with a generation, which is picked in the gallery unless it is there already."""
    stage = page.locator(f"#stage[data-id='{id_}']")
    if stage.count() == 0:
        tile(page, id_).locator(".picture").click()
    expect(stage).to_be_visible()
    return stage


def tile(page: Page, id_: object) -> Locator:
    """A generation in the gallery."""
    return page.locator(f"#gallery .tile[data-id='{id_}']")


def is_submission(request: Request) -> bool:
    """Whether the page enqueues something: it also asks what that would take, and what is queued."""
    return request.method == "POST" and request.url.endswith("/queue")


def submissions(page: Page) -> list[Request]:
    """What the page enqueues from now on."""
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request) if is_submission(request) else None)
    return sent
