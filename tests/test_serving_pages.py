"""The test page and the documentation in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from serving import Served, chat
from standin import StandIn
from test_serving import TRICKS
from usecase import UseCase


class Opened:
    """A page of the server with what the browser said and asked for while it was open."""

    def __init__(self, browser: Any, served: Served, path: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(served.url + path)
        self.own = served.url

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, *failed: object) -> None:
        self.context.close()
        if failed[0] is None:
            # A status that is no success is a line of Chromium's own.
            assert [text for text in self.said if "Failed to load resource" not in text] == []
            assert all(url.startswith((self.own, "data:")) for url in self.asked), self.asked


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    use = UseCase(tmp_path_factory.mktemp("plain"))
    use.write("flows/standard/flow.py", TRICKS)
    use.write("sample-request.json", json.dumps({"text": "hello <b>", "times": 2}))
    with Served(use, WORKERS="1", MARK=str(use.folder / "mark")) as served:
        yield served


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    use = UseCase(tmp_path_factory.mktemp("talking"))
    chat(use)
    with StandIn() as model:
        live = {"AOAI_API_BASE": model.url, "AOAI_API_KEY": "a-key", "WORKERS": "1"}
        with Served(use, **live) as served:
            yield served


def test_the_page_has_a_field_for_each_input_and_runs_the_flow(
    browser: Any,
    plain: Served,
) -> None:
    with Opened(browser, plain, "/") as page:
        page.get_by_label("text").wait_for()
        assert page.get_by_role("heading", level=1).inner_text() == "words"
        assert page.get_by_label("text").input_value() == "hello <b>"
        assert page.get_by_label("times").get_attribute("type") == "number"
        assert page.get_by_label("loud").get_attribute("type") == "checkbox"
        assert page.get_by_label("options").input_value() == "{}"
        assert page.get_by_label("tags").input_value() == "[]"
        page.get_by_role("button", name="Run").click()
        page.get_by_text("Done in").wait_for()
        assert page.locator("#outputs pre").inner_text() == "HELLO <B>HELLO <B>"
        page.get_by_label("Was it good?").fill("very")
        page.get_by_role("button", name="Good").click()
        page.get_by_text("Kept, thank you.").wait_for()
        page.get_by_text("The same as a command").click()
        assert "curl -X POST" in page.locator("#command").inner_text()


def test_what_is_wrong_stands_beside_its_field(browser: Any, plain: Served) -> None:
    with Opened(browser, plain, "/") as page:
        page.get_by_label("options").fill("[1")
        page.get_by_label("tags").fill("{}")
        page.get_by_label("times").fill("1.5")
        page.get_by_role("button", name="Run").click()
        problems = page.locator(".bad").all_inner_texts()
        assert any("times: not a whole number" in text for text in problems)
        assert any("options: not JSON" in text for text in problems)
        assert any("tags: not a list" in text for text in problems)
        assert page.locator("#input-1").evaluate("e => document.activeElement === e")
        for name, value in (("options", "{}"), ("tags", "[1]"), ("times", "1")):
            page.get_by_label(name).fill(value)
        page.get_by_label("text").fill("raise")
        page.get_by_role("button", name="Run").click()
        page.get_by_text("500 flow_failed: ValueError: no such word").wait_for()


def test_a_stream_shows_as_it_comes_and_can_be_stopped(
    browser: Any,
    plain: Served,
) -> None:
    with Opened(browser, plain, "/") as page:
        page.get_by_label("text").fill("count 0.3")
        page.get_by_role("button", name="Run").click()
        page.get_by_text(re.compile("^0 1 2")).wait_for()
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Stopped.").wait_for()
        assert page.get_by_role("button", name="Run").is_enabled()


def test_a_chat_goes_on_with_its_history(browser: Any, talking: Served) -> None:
    with Opened(browser, talking, "/", color_scheme="dark") as page:
        page.get_by_label("question").fill("who are you?")
        page.get_by_role("button", name="Run").click()
        page.get_by_text("Done in").wait_for()
        said = page.locator("#talk li span").all_inner_texts()
        assert said == ["who are you?", "echo: who are you?"]
        assert page.locator("#input-0").input_value() == ""
        page.keyboard.type("and now?")
        with page.expect_request("**/score") as sent:
            page.get_by_role("button", name="Run").click()
        asked = json.loads(sent.value.post_data)
        past = {
            "inputs": {"question": "who are you?", "tone": "calm"},
            "outputs": {"answer": "echo: who are you?", "length": 12},
        }
        assert asked["chat_history"] == [past]
        page.get_by_text("echo: and now?").first.wait_for()
        page.get_by_role("button", name="New conversation").click()
        assert page.locator("#talk li").count() == 0


def test_the_documentation_needs_no_other_server(browser: Any, talking: Served) -> None:
    with Opened(browser, talking, "/docs") as page:
        page.get_by_role("heading", name="POST /score").wait_for()
        titles = page.get_by_role("heading", level=2).all_inner_texts()
        assert titles[:2] == ["POST /score", "POST /feedback"]
        body = page.get_by_role("table", name="body").first.inner_text()
        assert "chat_history" in body
        assert "502" in page.get_by_role("table", name="status codes").first.inner_text()


LUMINANCE = """() => {
  const parts = (text) => text.match(/[0-9.]+/g).slice(0, 3).map(Number);
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = (rgb) => rgb.map((c) => linear(c / 255))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (e) => { for (; e; e = e.parentElement) {
    const color = getComputedStyle(e).backgroundColor;
    if (!color.startsWith("rgba(0, 0, 0, 0")) return color; } return "rgb(255, 255, 255)"; };
  return [...document.querySelectorAll("h1, h2, p, label, a, button, pre, textarea, th, td")]
    .filter((e) => e.checkVisibility() && e.textContent.trim() && !e.disabled).map((e) => {
      const both = [getComputedStyle(e).color, ground(e)].map((color) => light(parts(color)));
      const [a, b] = both.sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05); });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_pages_can_be_read_in_both_schemes_and_on_a_phone(
    browser: Any,
    talking: Served,
    scheme: str,
    path: str,
) -> None:
    size = {"width": 360, "height": 640}
    with Opened(browser, talking, path, color_scheme=scheme, viewport=size) as page:
        page.locator("label, table").first.wait_for()
        assert min(page.evaluate(LUMINANCE)) >= 4.5
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        fields = page.locator("input, textarea, button").all()
        assert all(
            field.evaluate("e => (e.labels?.length || e.textContent) > ''") for field in fields
        )


def test_the_pages_may_not_be_framed_or_reach_out(plain: Served) -> None:
    for path in ("/", "/docs"):
        policy = plain.client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy


def test_the_pages_name_no_other_server(plain: Served) -> None:
    for path in ("/", "/docs"):
        assert not re.search(r"https?://|src=|@import", plain.client.get(path).text)
