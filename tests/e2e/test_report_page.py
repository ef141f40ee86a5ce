# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The page of `verl-durian report` in headless Chromium: layout, both color schemes, no request, and the table."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_records import write_run, write_training_set

from verl_durian.report.page import write_report

selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e .[dev]")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="no browser: apt-get install chromium chromium-driver",
    ),
]
NESTED = "dialog, .scroll, svg, svg *"
"""What may be wider than the page, because it scrolls or scales."""
LONG = "qwen2_5_vl_7b_durian_on_dapo_geometry3k_virl39k_lr1e-6_bs512_n8_temperature_1.0"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two seeds each of grpo and durian, and of a run with a long label."""
    folder = tmp_path_factory.mktemp("runs")
    train_file = write_training_set(folder / "train.parquet")
    runs = [
        write_run(folder / f"{estimator}_seed{seed}", estimator=estimator, seed=seed, train_file=train_file, texts=True)
        for estimator in ("grpo", "durian")
        for seed in (1, 2)
    ]
    long = write_run(folder / "long", train_file=train_file)
    write_report([*map(str, runs), f"{LONG}={long}"], folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def browser() -> Iterator[Any]:
    """Headless Chromium that logs its console and its requests."""
    options = selenium.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options, selenium.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def show(browser: Any, page: Path, width: int, scheme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(page.as_uri())


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_layout_and_colors(page: Path, browser: Any, width: int, scheme: str) -> None:
    start = time.monotonic()
    show(browser, page, width, scheme)
    assert time.monotonic() - start < 3
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = [
        event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
    ]
    assert {url for url in requested if not url.startswith("data:")} == {page.as_uri()}

    wider = f"""return [...document.querySelectorAll("body *")].filter((element) =>
        !element.closest({json.dumps(NESTED)}) && element.getBoundingClientRect().right > innerWidth + 1).length"""
    assert browser.execute_script(wider) == 0
    cut = """return [...document.querySelectorAll(".panels svg")].flatMap((svg) => {
        const box = svg.getBoundingClientRect();
        return [...svg.querySelectorAll("text")].filter((text) => {
            const inner = text.getBoundingClientRect();
            return inner.width > 0 && (inner.left < box.left - 1 || inner.right > box.right + 1 ||
                inner.top < box.top - 1 || inner.bottom > box.bottom + 1);
        }).map((text) => text.textContent);
    })"""
    assert browser.execute_script(cut) == []
    overlapping = """return [...document.querySelectorAll(".panels svg")].flatMap((svg) => {
        const texts = [...svg.querySelectorAll("text")].map((text) => [text, text.getBoundingClientRect()])
            .filter(([, box]) => box.width > 0);
        const meet = (a, b) =>
            a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2;
        return texts.flatMap(([text, box], at) => texts.slice(at + 1).filter(([, other]) => meet(box, other))
            .map(([other]) => `${svg.ariaLabel}: ${text.textContent}, ${other.textContent}`));
    })"""
    assert browser.execute_script(overlapping) == []
    colors = "const style = getComputedStyle(document.querySelector('svg text')); return [style.fill, style.fontSize]"
    fill = browser.execute_script(colors)[0]
    assert (sum(map(int, fill.removeprefix("rgb(").removesuffix(")").split(","))) > 384) == (scheme == "dark")


def test_sort_filter_and_open_a_prompt(page: Path, browser: Any) -> None:
    show(browser, page, 1400, "light")

    def find(selector: str) -> Any:
        return browser.find_element("css selector", selector)

    def column(number: int) -> list[str]:
        cells = (
            f"return [...document.querySelectorAll('#prompts td:nth-child({number})')].map((cell) => cell.innerText)"
        )
        return browser.execute_script(cells)

    def choose(name: str, text: str) -> None:
        browser.find_element("xpath", f"//select[@id='{name}']/option[.='{text}']").click()

    everything = column(1)
    assert find("#count").text == f"{len(everything)} of {len(everything)} prompts"
    find("#prompts th:nth-child(9) button").click()
    changes = [float(text.removesuffix(" ×")) for text in column(9) if text != "–"]
    assert changes == sorted(changes) and column(9)[: len(changes)].count("–") == 0
    find("#prompts th:nth-child(9) button").click()
    assert [float(text.removesuffix(" ×")) for text in column(9) if text != "–"] == changes[::-1]
    assert find("#prompts th:nth-child(9)").get_attribute("aria-sort") == "descending"

    choose("kind", "hardest")
    choose("table-run", "durian_seed2")
    assert 0 < len(column(1)) < len(everything)
    assert set(column(2)) == {"durian_seed2"} and all("hardest" in kinds for kinds in column(3))
    name = column(1)[0].strip()
    find("#search").send_keys(f"figure {name}?")
    assert [text.strip() for text in column(1)] == [name]

    find("#prompts tbody tr").click()
    detail = find("#detail")
    assert detail.is_displayed()
    for part in (f"What is the area of figure {name}?", "ground truth", "perceptual term", "<script>", "rollout 7"):
        assert part in detail.text
    assert len(detail.find_elements("css selector", "tbody tr")) == 8
    assert browser.execute_script("return document.querySelector('#detail img').naturalWidth") == 320
    find("#detail button").click()
    assert not detail.is_displayed()

    shown = """return [...document.querySelectorAll("#groups .run")].filter((run) => !run.hidden)
        .map((run) => run.dataset.run)"""
    assert browser.execute_script(shown) == ["grpo_seed1"]
    choose("run", "durian_seed1")
    assert browser.execute_script(shown) == ["durian_seed1"]
    assert browser.get_log("browser") == []
