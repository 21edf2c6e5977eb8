"""Reports in a real browser: they open without complaint, show what they promise, and sort."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from factories import write_model, write_parquet
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from digitsum.archive.score_parts import model_directory
from digitsum.archive.synth import SynthConfig, synth
from digitsum.cli import main
from digitsum.model.saved_model import load_model, packaged_model
from digitsum.report.figures import score_caption

PHONE = 390
HOSTILE_ID = "<script>window.hacked = 1</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = Options()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,1200"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = Service(shutil.which("chromedriver") or "chromedriver")
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def nights(tmp_path_factory) -> Path:
    """Score an archive with a hostile id, a bad image and a bad shard, on two nights."""
    out = tmp_path_factory.mktemp("nights")
    archive = out / "archive"
    synth(SynthConfig(out=str(archive), images=300, shards=4))
    odd = archive / "shard-00001.parquet"
    table = pq.read_table(odd)
    ids, images = table["image_id"].to_pylist(), table["image"].to_pylist()
    ids[3], images[3] = HOSTILE_ID, images[3][:-1]
    columns = {"image_id": ids, "image": pa.array(images, pa.binary())}
    write_parquet(odd, columns, metadata=table.schema.metadata)
    late = archive / "shard-00003.parquet"
    late.rename(out / "late")
    score(out, packaged_model())
    (out / "late").rename(late)
    (archive / "broken.parquet").write_text("no Parquet")
    score(out, packaged_model())
    score(out, write_worse_model(out / "worse"))
    return out


def score(directory: Path, model: str) -> None:
    command = (
        f"score --archive {directory}/archive --scores {directory}/scores --model {model} "
        "--executor threads --backend torch --max-rejected 60%"
    )
    assert main(command.split()) == 0


def write_worse_model(path: Path) -> str:
    """Write the model that comes with digitsum with a little noise in its weights."""
    packaged = load_model(packaged_model())
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in packaged.network.parameters():
            noise = 0.1 * weights.std() * torch.randn_like(weights) if weights.ndim > 1 else 0
            weights += noise
    write_model(path, packaged.network, pixel_scale=packaged.pixel_scale)
    return str(path)


def runs(directory: Path) -> list[Path]:
    return sorted(directory.glob("scores/_runs/score-*"))


def shown(browser: webdriver.Chrome, report: Path) -> webdriver.Chrome:
    """Open a report; whatever the browser complains of fails the test, as does any request."""
    browser.get_log("performance")
    browser.get(report.as_uri())
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    for picture in browser.find_elements(By.TAG_NAME, "img"):
        assert picture.get_attribute("alt")
        assert browser.execute_script("return arguments[0].naturalWidth", picture) > 0
    for chart in browser.find_elements(By.TAG_NAME, "svg"):
        assert chart.get_attribute("aria-label")
        assert chart.size["height"] > 50
    return browser


def table_under(browser: webdriver.Chrome, title: str):
    return browser.find_element(By.XPATH, f"//section[h2='{title}']//table")


def column(table, number: int) -> list[str]:
    return texts(table, By.CSS_SELECTOR, f"tbody td:nth-child({number + 1})")


def texts(element, by: str, value: str) -> list[str]:
    return [found.text for found in element.find_elements(by, value)]


def test_score_report_sections(browser, nights):
    page = shown(browser, runs(nights)[1] / "report.html")
    titles = texts(page, By.TAG_NAME, "h2")
    expected = ["Rate", "What was predicted", "A random sample", "Rejected", "Slowest chunks"]
    assert titles == [*expected, "Where it comes from"]
    assert len(page.find_elements(By.TAG_NAME, "svg")) == 4
    captions = texts(page, By.TAG_NAME, "figcaption")
    assert len(captions) == 24
    of_first = model_directory(load_model(packaged_model()).digest)
    [part] = nights.glob(f"scores/{of_first}/shard-00003/*.parquet")
    rows = pq.read_table(part, partitioning=None).to_pylist()
    assert set(captions) <= {f"{score_caption(row)} · {row['image_id']}" for row in rows}
    assert column(table_under(page, "Rejected"), 0) == ["broken.parquet"]
    predicted = page.find_element(By.XPATH, "//section[h2='What was predicted']")
    assert "the run before" in predicted.text


def test_score_report_hostile_id(browser, nights):
    page = shown(browser, runs(nights)[0] / "report.html")
    assert HOSTILE_ID in column(table_under(page, "Rejected"), 2)
    assert page.execute_script("return window.hacked") is None


def test_score_report_tables_sort(browser, nights):
    page = shown(browser, runs(nights)[0] / "report.html")
    table = table_under(page, "Slowest chunks")
    heads = table.find_elements(By.CSS_SELECTOR, "th button")
    for number, kind in ((0, str), (3, float)):
        heads[number].click()
        rising = list(map(kind, column(table, number)))
        assert rising == sorted(rising)
        assert heads[number].find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
        heads[number].click()
        assert list(map(kind, column(table, number))) == sorted(rising, reverse=True)


def test_score_report_on_phone(browser, nights):
    metrics = {"width": PHONE, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page = shown(browser, runs(nights)[1] / "report.html")
        assert page.execute_script("return document.documentElement.scrollWidth") <= PHONE
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def luminance(colour: str) -> float:
    """Return the relative luminance of a CSS colour (WCAG 2.2)."""
    channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_score_report_contrast(browser, nights, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page = shown(browser, runs(nights)[1] / "report.html")
    body = page.find_element(By.TAG_NAME, "body")
    back = luminance(body.value_of_css_property("background-color"))
    assert (back < 0.1) == (scheme == "dark")
    for selector in ("body", ".soft", "dt", "figcaption", "svg text"):
        element = page.find_element(By.CSS_SELECTOR, selector)
        name = "fill" if selector == "svg text" else "color"
        text = luminance(element.value_of_css_property(name))
        contrast = (max(text, back) + 0.05) / (min(text, back) + 0.05)
        assert contrast >= 4.5, selector


def test_report_again_without_archive(nights, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(nights / "scores/_runs", elsewhere / "_runs")
    run = elsewhere / "_runs" / runs(nights)[1].name
    page = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert without_ids((run / "report.html").read_bytes()) == without_ids(page)


def without_ids(page: bytes) -> bytes:
    """Return a page without the random ids that matplotlib gives clip paths and markers."""
    return re.sub(rb"[pm][0-9a-f]{10}", b"", page)


@pytest.mark.parametrize("broken", ["", "[]", '{"kind": "score", "outcome": {}}', '{"kind": 3}'])
def test_report_of_broken_manifest(tmp_path, capsys, broken):
    (tmp_path / "manifest.json").write_text(broken)
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("digitsum: ")


def test_comparison_report(browser, nights, tmp_path, capsys):
    command = f"compare --archive {nights}/archive --scores {nights}/scores --report {tmp_path}"
    assert main(command.split()) == 0
    assert "225 have a true sum: " in capsys.readouterr().out
    assert main([*command.split(), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    first, second = (
        {
            row["image_id"]: row["predicted_sum"]
            for row in read_rows(sorted(model.rglob("*.parquet")))
        }
        for model in sorted(nights.glob("scores/model=*"))
    )
    labelled = [nights / f"archive/shard-{n:05d}.parquet" for n in (0, 2, 3)]  # not the second
    truth = {row["image_id"]: row["digit_sum"] for row in read_rows(labelled)}
    same = sum(first[image_id] == second[image_id] is not None for image_id in first)
    assert 0 < same < 299
    assert (figures["images"], figures["same"]) == (299, same)
    assert figures["labelled"] == len(truth) == 225
    assert figures["right"] == [
        sum(sums[image_id] == true_sum for image_id, true_sum in truth.items())
        for sums in (first, second)
    ]
    page = shown(browser, tmp_path / "report.html")
    assert len(page.find_elements(By.TAG_NAME, "img")) == min(24, 299 - same)


def read_rows(files: list[Path]) -> list[dict]:
    return [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]


def test_comparison_report_without_archive(browser, nights, tmp_path):
    command = f"compare --archive {tmp_path}/gone --scores {nights}/scores --report {tmp_path}"
    assert main(command.split()) == 0
    page = shown(browser, tmp_path / "report.html")
    assert "Some cannot be shown" in page.find_element(By.TAG_NAME, "main").text
    assert page.find_elements(By.TAG_NAME, "img") == []


@pytest.mark.parametrize("models", ["a b", "model= model=", "{first} {first}"])
def test_compare_not_two_models(nights, capsys, models):
    first = sorted(nights.glob("scores/model=*"))[0].name
    command = f"compare --archive {nights}/archive --scores {nights}/scores --models"
    assert main([*command.split(), *models.format(first=first).split()]) == 2
    assert capsys.readouterr().err.startswith("digitsum: --models ")


def test_score_drift_exit_code_again(tmp_path, capsys):
    synth(SynthConfig(out=str(tmp_path / "archive"), images=200, shards=1, unlabelled=True))
    [shard] = (tmp_path / "archive").glob("*.parquet")
    table = pq.read_table(shard)
    images = [bytes(255 - byte for byte in image) for image in table["image"].to_pylist()]
    field = table.schema.field("image")
    pq.write_table(table.set_column(1, field, pa.array(images, field.type)), shard)
    command = f"score --archive {tmp_path}/archive --scores {tmp_path}/scores --executor threads"
    command = [*command.split(), "--backend", "torch"]
    for _ in range(2):
        assert main([*command, "--fail-on-drift"]) == 5
        assert capsys.readouterr().err.splitlines()[-1].startswith("digitsum: drift: ")
    assert (tmp_path / "scores/CURRENT").exists()
    assert main(command) == 0
    assert 'role="alert">Drift: ' in (runs(tmp_path)[0] / "report.html").read_text()


def test_training_report(browser, trained):
    page = shown(browser, trained / "_runs/pair/report.html")
    titles = texts(page, By.TAG_NAME, "h2")
    expected = ["Curves", "What its confidence is worth", "Hits and worst misses", "Confusion"]
    assert titles[:4] == expected
    assert len(page.find_elements(By.TAG_NAME, "svg")) == 2
    assert len(page.find_elements(By.TAG_NAME, "img")) == 3
    assert column(table_under(page, "Epochs"), 0) == ["1", "2"]
