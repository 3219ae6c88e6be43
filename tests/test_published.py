"""The published files by name: every link of the seed's page, its digest and figures, and the names that lead to it."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from dbnet.cli.fetch import fetch as command
from dbnet.errors import DbnetError
from dbnet.published import AmbiguousError, begun_with, by_digest, choose, entries, file_at, matching
from dbnet.recipe import read_recipe
from dbnet.recipe_configs import names
from dbnet.spec import SPECS
from tests.test_configs import damaged

ENTRIES = entries()
LINK = re.compile(r"\((https://[^)\s]+/([^)\s/]+?)-([0-9a-f]{8})(-910v2)?\.(ckpt|mindir))\)")


def page_rows(page: str) -> list[tuple[str, list[str]]]:
    """(chip, cells) of every row of the page that has a download."""
    chip, rows = "910", []
    for line in page.splitlines():
        if match := re.search(r"tested on ascend (910\*?) with", line):
            chip = match[1]
        if LINK.search(line):
            rows.append((chip, [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]))
    return rows


def test_every_link_of_the_page_is_known(need):
    page = need("seed_dbnet_page.md").read_text(encoding="utf-8")
    links = LINK.findall(page)
    assert len(links) == len(re.findall(r"\.(?:ckpt|mindir)\)", page)) == 26
    known = {entry.download.url: entry for entry in ENTRIES if entry.row}
    assert set(known) == {url for url, *_ in links}
    assert {known[url].digest for url, *_ in links} == {digest for _, _, digest, *_ in links}
    for chip, cells in page_rows(page):
        for url, _, digest, v2, kind in LINK.findall(" ".join(cells)):
            entry = known[url]
            assert (entry.digest, entry.format, entry.row.chip) == (digest, kind, chip)
            assert bool(v2) == entry.variant.endswith("910v2") == (chip == "910*")
            assert SPECS[entry.name].fusion == ("asf" if cells[0] == "DBNet++" else "concat")
            assert SPECS[entry.name].backbone == cells[1].lower().replace("-", "")
            assert (str(entry.row.cards), str(entry.row.batch_size)) == (cells[2], cells[3])
            figures = [float(cell.rstrip("%")) for cell in cells if re.fullmatch(r"\d\d\.\d\d%", cell)]
            own = [entry.row.recall, entry.row.precision, entry.row.fscore]
            assert [figure for figure in own if figure is not None] == figures
            if kind == "mindir":
                size = (1152, 2048) if cells[0] == "DBNet++" else (736, 1280)
                assert entry.download.input_shape == (1, 3, *size)


def test_every_link_of_the_page_is_listed(need):
    listed = CliRunner().invoke(command, ["--list"], catch_exceptions=False).stdout
    for _, _, digest, _, kind in LINK.findall(need("seed_dbnet_page.md").read_text(encoding="utf-8")):
        assert len(re.findall(rf" {kind} .* {digest} *$", listed, re.MULTILINE)) == 1, digest
    assert "private test set" in listed


def test_the_recipes_addresses_are_known():
    """What a recipe begins with can be fetched, too."""
    urls = {entry.download.url for entry in ENTRIES}
    for name in names():
        for path in ("model.pretrained", "model.backbone.pretrained"):
            value = read_recipe(name).get(path, None)
            if isinstance(value, str) and "://" in value:
                assert value in urls and file_at(value) == value.rpartition("/")[2]
                assert name in begun_with(choose(value, known=ENTRIES)) or "mobilenetv3_icdar15" in name


def test_name_variant_and_format_name_one_file():
    keys = {(entry.name, entry.variant, entry.format) for entry in ENTRIES}
    assert len(keys) == len(ENTRIES) == len({entry.digest for entry in ENTRIES}) == 28
    for entry in ENTRIES:
        assert choose(entry.name, entry.variant, entry.format, ENTRIES) is entry
        for word in (entry.file, entry.download.url, entry.digest, entry.file.upper(),
                     f"http://mirror/{entry.file}?token=1", entry.file.rpartition(".")[0]):
            assert choose(word, known=ENTRIES) is entry
        assert entry.name in SPECS or entry.backbone_only
        assert entry.languages or entry.data == "ImageNet"


@pytest.mark.parametrize(("word", "variant", "kind", "file"), [
    ("dbnet_resnet50", "icdar15-910v2", None, "dbnet_resnet50-48153c3b-910v2.ckpt"),
    ("DBNet_ResNet50", "ICDAR15_910v2", None, "dbnet_resnet50-48153c3b-910v2.ckpt"),
    ("dbnet-resnet50", "icdar15", "mindir", "dbnet_resnet50-c3a4aa24-fbf95c82.mindir"),
    ("dbnet_resnet50_td500", None, None, "dbnet_resnet50_td500-0d12b5e8.ckpt"),
    ("dbnet_resnet50_ch_en_general", None, None, "dbnet_resnet50_ch_en_general-a5dbb141.ckpt"),
    ("dbnet_resnet50_ch_en_general", None, "mindir", "dbnet_resnet50_ch_en_general-a5dbb141-912f0a90.mindir"),
    ("db_r50_icdar15_8p.yaml", None, None, "dbnet_resnet50-e10bad35-910v2.ckpt"),
    ("configs/det/dbnet/dbpp_r50_icdar15_910.yaml", None, None, "dbnetpp_resnet50_910-35dc71f2.ckpt"),
    ("db_mobilenetv3_ppocrv3", None, None, "dbnet_mobilenetv3_ppocrv3-70d6018f.ckpt"),
    ("e61a9c37", None, None, "dbnetpp_resnet50_910-35dc71f2-e61a9c37.mindir"),
])
def test_names_that_lead_to_a_file(word, variant, kind, file):
    assert choose(word, variant, kind, ENTRIES).file == file


@pytest.mark.parametrize(("word", "variant", "kind", "message"), [
    ("dbnet_resnet5", None, None, "did you mean dbnet_resnet50 or"),
    ("dbnet_resnet50-c3a4aa25.ckpt", None, None, "did you mean dbnet_resnet50-c3a4aa24.ckpt"),
    ("db_r50_icdar", None, None, "did you mean db_r50_icdar15"),
    ("yolo", None, None, "yolo: no published weights have that name; dbnet fetch --list"),
    ("", None, None, "the empty name"),
    ("dbnet_resnet50", "icdar", None, "has no variant icdar; did you mean icdar15.* there are icdar15, icdar15-910v2"),
    ("dbnet_resnet50", "", None, "has no variant .an empty name"),
    ("dbnet_resnet50", "td500", "mindir", "is not published as .mindir, only as ckpt dbnet_resnet50_td500-0d12b5e8"),
    ("c3a4aa24", None, "mindir", "is not published as .mindir"),
    ("fbf95c82", None, "ckpt", "is not published as .ckpt"),
])
def test_names_that_lead_nowhere(word, variant, kind, message):
    with pytest.raises(DbnetError, match=message) as caught:
        choose(word, variant, kind, ENTRIES)
    assert not isinstance(caught.value, AmbiguousError)


def test_several_variants_are_named():
    with pytest.raises(AmbiguousError, match=r"in 9 variants; add --variant icdar15 .DBNet ICDAR2015, F 85.") as caught:
        choose("dbnet_resnet50", known=ENTRIES)
    for entry in matching("dbnet_resnet50", None, "ckpt", ENTRIES):
        assert f" {entry.variant} (" in str(caught.value)
    with pytest.raises(AmbiguousError, match=r"2 variants; add --variant icdar15 \(.*\), general"):
        choose("dbnet_resnet50", None, "mindir", ENTRIES)


@pytest.mark.parametrize(("url", "file"), [
    ("http://mirror/x/dbnet_resnet50-c3a4aa24.ckpt?token=a/b#c", "dbnet_resnet50-c3a4aa24.ckpt"),
    ("https://x/dbnet_resnet50-c3a4aa25.ckpt", None), ("https://x/", None), ("https://dbnet_resnet50", None),
])
def test_the_file_of_an_address(url, file):
    assert file_at(url) == file


def test_a_digest_names_its_file():
    assert by_digest("c3a4aa24" + "0" * 56, ENTRIES).variant == "icdar15"
    assert by_digest("0" * 64, ENTRIES) is None


@pytest.mark.parametrize(("old", "new", "message"), [
    ("{name: mobilenet_v3_large_050, variant", "{nam: mobilenet, variant", r":\d+: start has no nam; it has name"),
    ("\n     recipes: [db_mobilenetv3_ppocrv3],", "", "start wants recipes too"),
    ("-70d6018f.ckpt", ".ckpt", "url is the text"),
    ("ImageNet: {}", "ImageNet: 5", "wants names with values"),
    ("languages: English, scored_on: its 500", "languages: 5, scored_on: its 500", "languages is the number 5"),
])
def test_a_damaged_table_is_one_line(tmp_path, old, new, message):
    with pytest.raises(DbnetError, match=message):
        entries(damaged(tmp_path, old, new))


@pytest.mark.parametrize(("text", "message"), [
    ("start: 5", "start wants a list"), ("data_sets: 5", "wants names with values"), ("a: 5", "wants a list of rows"),
    ("a: [5]", "a row has network"), ("start: [5]", "wants names with values"), ("", "is empty"), ("5", "holds"),
])
def test_what_is_no_table(tmp_path, text, message):
    (tmp_path / "t.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(DbnetError, match=message):
        entries(tmp_path / "t.yaml")


def test_the_list_as_json():
    found = json.loads(CliRunner().invoke(command, ["--json"], catch_exceptions=False).stdout)
    assert [row["file"] for row in found] == [entry.file for entry in ENTRIES]
    [row] = [row for row in found if row["digest"] == "fbf95c82"]
    assert (row["input_shape"], row["fscore"], row["chip"], row["recipes"]) == ([1, 3, 736, 1280], 85.05, "910",
                                                                                ["db_r50_icdar15"])
    general = [row for row in found if row["variant"] == "general"]
    assert len(general) == 4 and all("private" in row["scored_on"] for row in general)
