"""Swagger UI in a real browser: what a person presses works, and nothing else is loaded."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Page, chromium
from tests.e2e.stack import Stack
from tests.needs import need

CREATE = '[id$="-createTask"], [id$="CreateTask"]'


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    need("chromium")
    with chromium(tmp_path) as page:
        yield page


def open_operation(page: Page, stack: Stack, method: str, path: str) -> str:
    """Unfold an operation, ready to be tried; return the selector of its block."""
    page.open(f"{stack.api.base}/")
    mark = f'[data-path="{path}"]'
    page.until(f"!!document.querySelector('.opblock-{method} {mark}')")
    page.evaluate(
        f"document.querySelector('.opblock-{method} {mark}').closest('.opblock').id = 'tried'"
    )
    page.click("#tried .opblock-summary-control")
    return "#tried"


def execute(page: Page, block: str) -> tuple[str, str]:
    """Press Execute; return the status and the body of the answer."""
    page.click(f"{block} .execute")
    live = f"{block} .live-responses-table"
    status = page.until(
        f"(document.querySelector('{live} tbody .response-col_status') || {{}}).textContent"
    )
    body = page.evaluate(f"document.querySelector('{live} tbody .microlight').textContent")
    return str(status), str(body)


def test_the_first_example_is_created_by_pressing_execute_and_completes(
    page: Page, quick: Stack
) -> None:
    block = open_operation(page, quick, "post", "/tasks")
    status, body = execute(page, block)
    assert status.startswith("200"), body
    done = quick.api.wait(json.loads(body)["id"])
    assert done["state"] == "COMPLETE"
    assert done["name"] == "sha1sum of a text"
    assert page.violations == []


def test_every_example_can_be_chosen_and_is_taken(page: Page, quick: Stack) -> None:
    block = open_operation(page, quick, "post", "/tasks")
    names = page.until(
        f"[...document.querySelectorAll('{block} .examples-select-element option')]"
        ".map(one => one.value)"
    )
    assert len(names) >= 3
    for name in names:
        page.evaluate(
            f"(() => {{ const box = document.querySelector('{block} .examples-select-element');"
            "const set = Object.getOwnPropertyDescriptor(HTMLSelectElement.prototype, 'value').set;"
            f"set.call(box, {json.dumps(name)});"
            "box.dispatchEvent(new Event('change', {bubbles: true})); return true; })()"
        )
        text = page.until(
            f"(value => value.includes({json.dumps(name)}) && value)"
            f"(document.querySelector('{block} .body-param__text').value)"
        )
        assert json.loads(str(text))["name"] == name
        page.evaluate(f"(document.querySelector('{block} .btn-clear') || {{click(){{}}}}).click()")
        status, body = execute(page, block)
        assert status.startswith("200"), body


@pytest.mark.parametrize("path", ["/tasks", "/service-info"])
def test_lists_and_service_info_answer_when_execute_is_pressed(
    page: Page, quick: Stack, path: str
) -> None:
    status, body = execute(page, open_operation(page, quick, "get", path))
    assert status.startswith("200"), body
    assert json.loads(body)
    assert page.violations == []
