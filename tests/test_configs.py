"""The recipes of `configs/` are the seed's, value for value, and short; the published figures are the page's."""

from __future__ import annotations

import re

import pytest

from dbnet.errors import DbnetError
from dbnet.recipe import read_recipe
from dbnet.recipe_configs import CONFIGS, PUBLISHED, Download, names, published
from dbnet.recipe_yaml import Node, read_yaml
from tests import seed_recipes
from tests.test_recipe import show

ROWS = published()


def leaves(node: Node, path: str = "") -> dict[str, str]:
    """What a file itself says: dotted path -> file:line."""
    if isinstance(node.value, dict):
        return {leaf: where for name, child in node.value.items()
                for leaf, where in leaves(child, f"{path}.{name}").items()}
    return {path.lstrip("."): node.where}


def test_effective_values_are_the_seeds(need):
    seed = seed_recipes.sections(need("recipes_of_the_seed.txt").read_text(encoding="utf-8"))
    assert names() == sorted(seed)
    for name, settings in seed.items():
        shown = {path: value for path, value, _ in read_recipe(name).lines()}
        assert seed_recipes.without_paths(shown) == settings, name


def test_the_order_is_the_seeds(need):
    """Of the keys that the seed's file has: a plain diff of both shows nothing but paths."""
    for name, settings in seed_recipes.sections(need("recipes_of_the_seed.txt").read_text(encoding="utf-8")).items():
        assert [path for path in seed_recipes.shown(show(name)) if path in settings] == list(settings), name


@pytest.mark.parametrize("name", names())
def test_a_recipe_says_only_what_differs(name):
    """But for the network's name and the paths, every line is needed."""
    file = CONFIGS / f"{name}.yaml"
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") < 70
    assert max(map(len, text.splitlines())) <= 140
    recipe = read_recipe(name)
    said = leaves(read_yaml(file))
    default = {path: value for path, value, _ in read_recipe("db_r50_icdar15", [
        f"model.backbone.name={recipe.get('model.backbone.name')}", "train.gradient_accumulation_steps=1",
        "train.loader.batch_size=20"]).lines()}
    for path in said:
        if path != "model.backbone.name" and path.rpartition(".")[2] not in seed_recipes.PATHS:
            own, other = ({leaf: value for leaf, value in values.items() if re.sub(r"\[\d+\]", "", leaf) == path}
                          for values in ({leaf: value for leaf, value, _ in recipe.lines()}, default))
            assert own != other, path


def test_paths_are_the_pages(need):
    page = need("seed_dbnet_page.md").read_text(encoding="utf-8")
    for name in names():
        recipe = read_recipe(name)
        for section in ("train", *(["eval"] if "eval" in recipe.settings else [])):
            [data] = recipe.data(section)
            for part in (*data.images.parts, data.label_file.name):
                assert part in page or "ppocrv3" in name or part == "gt_processed.mat", (name, part)
        # The page's tree has test_det_gt.txt among the training images of MSRA-TD500.
        if "eval" in recipe.settings and "mlt2017" not in name and "ppocrv3" not in name:
            assert recipe.eval_data[0].label_file.name == "test_det_gt.txt"
            assert any("test" in part.lower() for part in recipe.eval_data[0].images.parts)
        if "td500" in name:
            assert recipe.eval_data[0].label_file.parent == recipe.eval_data[0].images


def page_rows(page: str) -> list[tuple[str, list[str]]]:
    """(chip, cells) of every result row that names a yaml file."""
    chip, rows = "", []
    for line in page.splitlines():
        if match := re.search(r"tested on ascend (910\*?) with", line):
            chip = match[1]
        if ".yaml)" in line and line.strip().startswith("|"):
            rows.append((chip, [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]))
    return rows


def test_published_figures_are_the_pages(need):
    rows = page_rows(need("seed_dbnet_page.md").read_text(encoding="utf-8"))
    own = [row for row in ROWS if row.recipe]
    assert len(rows) == len(own) == 20
    for chip, cells in rows:
        name = re.search(r"\]\((\w+)\.yaml\)", cells[-2])[1]
        [row] = [row for row in own if (row.recipe, row.chip) == (name, chip)]
        numbers = [float(cell.replace("78,.2", "78.2").rstrip("%")) for cell in cells[5:-2]]
        figures = [row.recall, row.precision, row.fscore] if row.fscore else [row.train_loss]
        assert [row.ms_per_step, row.img_per_s, *figures] == numbers, name
        assert [row.network, row.backbone, str(row.cards), str(row.batch_size), row.pretrained] == cells[:5]
        assert [download.url for download in row.downloads] == re.findall(r"\((https[^)]+)\)", cells[-1])


def test_general_models_are_the_pages(need):
    page = need("seed_dbnet_page.md").read_text(encoding="utf-8")
    rows = [row for row in ROWS if row.recipe is None]
    assert [(row.network, row.fscore, row.ms_per_step) for row in rows] == [
        ("DBNet", 83.41, 312.48), ("DBNet++", 84.30, 1230.76)]
    assert all(f"]({download.url})" in page for row in rows for download in row.downloads)
    assert sum(page.count(f".{kind})") for kind in ("ckpt", "mindir")) == sum(len(row.downloads) for row in ROWS)


def test_rows_fit_their_recipes():
    for row in ROWS:
        if row.recipe is None:
            continue
        recipe = read_recipe(row.recipe)
        assert row.batch_size == recipe.get("train.loader.batch_size")
        assert (row.cards > 1) == recipe.get("system.distribute")
        network = {"DBNet": "concat", "DBNet++": "asf"}[row.network], row.backbone.lower().replace("-", "")
        assert (recipe.spec().fusion, recipe.spec().backbone) == network
        assert ("synthtext" in (recipe.get("model.pretrained") or "")) == (row.pretrained == "SynthText")
        for download in row.downloads:
            if download.input_shape:
                assert download.input_shape[2:] == recipe.pixels.size
        if row.fscore:
            middle = 2 * row.recall * row.precision / (row.recall + row.precision)
            assert row.fscore == pytest.approx(middle, abs=0.035 if row.network == "DBNet++" else 0.011)
        rate = 1000 * row.cards * row.batch_size / row.ms_per_step
        assert row.img_per_s == pytest.approx(rate, rel=0.01) or row.recipe == "db_r50_ctw1500"


def test_digests():
    assert Download("https://x/dbnet_resnet50-c3a4aa24-fbf95c82.mindir").digest == "fbf95c82"
    assert Download("https://x/dbnet_resnet50-48153c3b-910v2.ckpt").digest == "48153c3b"
    downloads = [download for row in ROWS for download in row.downloads]
    assert len({download.digest for download in downloads}) == len(downloads)


def damaged(folder, old, new):
    """The table of what is published, with one of its texts replaced."""
    text = PUBLISHED.read_text(encoding="utf-8")
    assert old in text
    (folder / "published.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    return folder / "published.yaml"


@pytest.mark.parametrize(("old", "new", "message"), [
    ("fscore: 85.05", "fscore: 850.5", r"published\.yaml:\d+: fscore is the number 850\.5; it must be a number from 0"),
    ("fscore: 85.05", "f_score: 85.05", r"published\.yaml:\d+: a row has network, backbone"),
    ("cards: 1, batch_size: 20, pretrained: ImageNet", "batch_size: 20", "a row has network"),
    ("-c3a4aa24.ckpt", ".ckpt", "downloads is the list"),
    ("chip: 910*", "chip: 910B", r"chip is the text '910B'; it must be one of 910, 910\*"),
    ("db_r50_icdar15:", "db_r50_icdar15: 5\nx:", "db_r50_icdar15 wants a list of rows"),
])
def test_a_damaged_table_is_one_line(tmp_path, old, new, message):
    with pytest.raises(DbnetError, match=message):
        published(damaged(tmp_path, old, new))
