"""The report in a browser and as text: it opens with findings, and nothing in it leads nowhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlparse

import pytest

from analysis.page.explorer import explorer
from analysis.page.findings import CLAIMS, findings
from analysis.paper.fits import read_fits
from analysis.records.collected import load
from analysis.text import render
from analysis.verdicts.all import all_verdicts
from analysis.verdicts.verdict import (
    DIFFERS,
    KINDS,
    NEVER_RUN,
    REPRODUCED,
    Verdict,
    counts_by_kind,
)


class Page(HTMLParser):
    """Links, ids, images without an alternative, and what would be loaded, of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.unnamed: list[str] = []
        self.loaded: list[str] = []
        self.path = path
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag == "a":
            self.links.append(str(found["href"]))
        if tag == "img" and len(found.get("alt") or "") < 20:
            self.unnamed.append(str(found.get("alt")))
        self.loaded += [
            str(found[key])
            for key in ("src", "srcset", "data")
            if key in found and not str(found[key]).startswith("data:")
        ]
        if tag == "link" and not str(found.get("href")).startswith("data:"):
            self.loaded.append(str(found["href"]))

    def dead(self) -> list[str]:
        """Links that lead to nothing."""
        return [
            link
            for link in self.links
            if (link[1:] not in self.ids if link.startswith("#") else not self._is_there(link))
        ]

    def _is_there(self, link: str) -> bool:
        return not urlparse(link).scheme and (self.path.parent / link).is_file()


def test_each_link_resolves_and_each_picture_has_words(built: Path) -> None:
    page = Page(built / "report" / "index.html")
    assert page.dead() == [] and page.unnamed == [] and page.loaded == []
    assert len(page.ids) == len(set(page.ids))
    records = [link for link in page.links if link.endswith("record.json")]
    runs = {path.relative_to(built).as_posix() for path in built.rglob("record.json")}
    unlinked = runs - {link.removeprefix("../") for link in records}
    # Trials that were not selected stand in no table but records.csv.
    assert {run.split("/")[1] for run in unlinked} == {"train"} and len(records) > 300
    assert sum("/published/modelling-2023-06/" in link for link in page.links) > 60


def test_links_of_failed_and_missing_runs_resolve(paper_like: Path) -> None:
    for path in (paper_like / "tables").glob("*.html"):
        assert Page(path).dead() == [], path.name


def test_a_page_opens_with_five_to_eight_findings(built: Path) -> None:
    text = (built / "report" / "index.html").read_text()
    lines = re.search(r'<ol class="findings">(.*?)</ol>', text, re.DOTALL)
    assert lines and 5 <= lines[1].count("<li>") <= 8
    assert text.index("findings") < text.index("<table")
    assert text.index('id="paper_table1"') < text.index('id="table1_memory"')


def test_findings_say_what_they_stand_on(built: Path) -> None:
    verdicts = all_verdicts(load(built))
    found = {finding.text: finding for finding in findings(verdicts)}
    assert [finding.kind for finding in found.values()] == [claim.kind for claim in CLAIMS]
    bases = [finding.basis for finding in found.values()]
    assert bases[0] == "measured here, on mini" and bases[1] == "predicted at full size"
    assert bases[4] == NEVER_RUN
    assert bases[5] == "measured here, on mini; at the paper's size never run"
    assert list(found.values())[1].verdicts == [(REPRODUCED, 43), (DIFFERS, 5)]
    ids = set(re.findall(r'id="([^"]+)"', (built / "report" / "index.html").read_text()))
    assert {finding.link[1:] for finding in found.values()} <= ids


def test_each_verdict_is_of_one_kind_and_counted(built: Path) -> None:
    verdicts = all_verdicts(load(built))
    counted = sum(
        int(text.split(" ")[0])
        for of in counts_by_kind(verdicts).values()
        for text in of.values()
        if text
    )
    assert counted == len(verdicts)
    kinds = {source: {v.kind for v in verdicts if v.source == source} for source in SOURCES}
    assert kinds == {name: set(kind.split()) for name, kind in SOURCES.items()}
    assert set(KINDS) >= {kind for of in kinds.values() for kind in of}


SOURCES = {
    "Table 1": "memory",
    "Table 2": "memory speed",
    "Table 3": "accuracy",
    "Table 4": "settings",
    "Figure 2": "memory",
    "Figure 3": "accuracy",
    "Claim": "memory speed accuracy",
    "Order": "memory speed accuracy",
}


def test_a_finding_measured_on_a_gpu_names_it() -> None:
    what = "65B on 8 devices: peak of each within its memory"
    verdict = Verdict("Claim", what, "24", "19", None, REPRODUCED, "", basis="measured on H200")
    assert [finding.basis for finding in findings([verdict])] == ["measured on H200"]
    assert findings([]) == []


def test_the_explorer_holds_the_published_answers() -> None:
    asked = explorer()
    assert asked is not None
    data = json.loads(asked["data"])
    found = read_fits(render.PUBLISHED / "what-fits")
    assert len(data["cells"]) == 2 * len(found.cells)
    place = data["models"].index("qwen3-8b") * len(data["methods"])
    place = (place + [m for m, _ in data["methods"]].index("lomo")) * len(data["counts"])
    place = (place + data["counts"].index(2)) * len(data["cards"]) + data["cards"].index(24)
    fit = found.cells["qwen3-8b", "lomo", 2, 24.0]
    assert data["cells"][2 * place] == fit.batch_size
    assert len(asked["data"]) < 30_000


def test_a_folder_with_models_of_its_own_has_the_form_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.page.explorer.registry", dict)
    asked = explorer()
    assert asked is not None and set(json.loads(asked["data"])["longest"]) == {None}


HARNESS = """<!doctype html><body>
<iframe id="phone" src="file://%(page)s" style="width:390px;height:800px;border:0"></iframe>
<iframe id="desktop" src="file://%(page)s" style="width:1280px;height:800px;border:0"></iframe>
<!-- A landscape A4 sheet between its margins. -->
<iframe id="sheet" src="file://%(page)s" style="width:1039px;height:800px;border:0"></iframe>
<script>
addEventListener("load", () => {
  const of = (name) => document.getElementById(name).contentDocument;
  const page = of("desktop"), seen = {};
  for (const name of ["phone", "desktop"]) seen[name] = of(name).documentElement.scrollWidth;
  seen.requests = performance.getEntriesByType("resource").length;
  const sheet = of("sheet");
  for (const rule of [...sheet.styleSheets].flatMap((styles) => [...styles.cssRules]))
    if (rule.media && rule.media.mediaText === "print") rule.media.mediaText = "all";
  seen.sheet = sheet.documentElement.scrollWidth;
  seen.cut = [...sheet.querySelectorAll("main table")].filter(
    (table) => table.getBoundingClientRect().right > 1039).length;
  for (const name of ["phone", "desktop", "sheet"]) {
    const own = document.getElementById(name).contentWindow.performance;
    seen.requests += own.getEntriesByType("resource").length;
  }
  seen.pictures = [...page.images].every((image) => image.complete && image.naturalWidth > 0);
  const table = page.querySelector("#paper_table2 ~ .scroll table");
  const column = () => [...table.tBodies[0].rows].map((row) => row.cells[2].textContent);
  const press = () => table.tHead.rows[0].cells[2].querySelector("button").click();
  seen.own = column();
  for (const name of ["up", "down", "back"]) { press(); seen[name] = column(); }
  const form = page.getElementById("fits-form");
  const rows = () => page.getElementById("fits-out").innerText;
  seen.first = rows();
  form.elements.card.selectedIndex = form.elements.card.options.length - 1;
  form.elements.sequence.value = "2048";
  form.dispatchEvent(new Event("change"));
  seen.then = rows(); seen.told = page.getElementById("fits-told").textContent;
  const told = () => page.querySelector("#runs-pages span").textContent;
  const listed = () => [...page.querySelectorAll("#runs-out a")].map((a) => a.getAttribute("href"));
  const search = page.getElementById("runs-form");
  seen.runs = [told(), listed().length];
  page.querySelector("#runs-pages button:last-child").click();
  seen.next = [told(), listed().length];
  search.elements.words.value = "/lomo/ boolq";
  search.dispatchEvent(new Event("input"));
  seen.chosen = [told(), ...listed()];
  document.body.textContent = JSON.stringify(seen);
});
</script>"""


@pytest.mark.slow
def test_the_page_in_a_browser(built: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser is None:
        pytest.skip("no chromium: apt-get install chromium")
    (tmp_path / "harness.html").write_text(HARNESS % {"page": built / "report" / "index.html"})
    command = [
        *(
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
        ),
        *("--allow-file-access-from-files", "--enable-logging=stderr", "--window-size=1400,1700"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", "--dump-dom"),
        f"file://{tmp_path / 'harness.html'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    body = re.search(r"<body>(\{.*\})</body>", done.stdout, re.DOTALL)
    assert body, done.stdout[-500:]
    seen = json.loads(body[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert (seen["phone"], seen["desktop"], seen["requests"]) == (390, 1280, 0)
    assert (seen["sheet"], seen["cut"]) == (1039, 0)
    assert seen["pictures"] and seen["back"] == seen["own"] != seen["up"]
    assert seen["up"][:2] == ["9.49", "13.61"] and seen["down"] == seen["up"][::-1]
    assert "short by" in seen["first"] and seen["first"] != seen["then"]
    number = len(list(built.rglob("record.json")))
    assert seen["runs"] == [f"1–50 of {number}", 50] and 50 < number < 100
    assert seen["next"] == [f"51–{number} of {number}", number - 50]
    assert seen["chosen"][0] == "1–2 of 2", "two trials of LOMO"
    assert all((built / "report" / link).is_file() for link in seen["chosen"][1:])
    assert "at least" in seen["then"] and "--seq-len 2048" in seen["told"]
