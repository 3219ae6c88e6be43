"""Recipes that are not understood: each is one line that says where, what it is and what it must be."""

from __future__ import annotations

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dbnet.errors import DbnetError
from dbnet.recipe import read_recipe
from dbnet.recipe_check import complete
from dbnet.recipe_keys import SCHEMA
from dbnet.recipe_schema import Key, keys
from dbnet.recipe_transforms import TRANSFORMS
from dbnet.recipe_yaml import parse_yaml

PIPELINE = "eval:\n  dataset:\n    transform_pipeline:\n"
LAUGHS = "".join(f"{name}: &{name} [{', '.join([f'*{last}' if last else 'x'] * 10)}]\n"
                 for last, name in zip(["", *"abcdefgh"], "abcdefghi", strict=True))


@pytest.mark.parametrize(("content", "message"), [
    # No YAML, or no recipe.
    ("", "is empty; a recipe has sections"),
    ("# nothing yet\n", "is empty"),
    ("{}", "is empty"),
    ("- a\n- b\n", r":1: holds the list \['a', 'b'\] where a recipe has sections"),
    ("hello", ":1: holds the text 'hello'"),
    ("model:\n  type: det\n---\nmodel:\n  type: det\n", ":3: is no YAML: .*another document"),
    ("scheduler:\n\tlr: 0.1\n", r":2: is no YAML: .*indent with spaces"),
    ("scheduler:\n  lr: 0.1\n num_epochs: 2\n", ":3: is no YAML"),
    ("model: [1, 2\n", r":2: is no YAML: .* expected ',' or '\]'"),
    ("scheduler:\n  lr: *nope\n", ":2: is no YAML: found undefined alias"),
    (b"scheduler:\n  lr: caf\xe9\n", "is no text"),
    (b"\x80\x02}q\x00.", "is no text"),
    ("model:\n  name: a\0b\n", "is no text"),
    ("common: " + "[" * 3000 + "]" * 3000, "nested too deep"),
    ("common: " + "[" * 60 + "]" * 60, "nested too deep"),
    (LAUGHS, ":1: .*more than a recipe can hold"),
    ("common: &a [*a]\n", ":1: is nested too deep for a recipe, or an anchor holds itself"),
    ("common: " + "x" * 2**18, "are no recipe"),
    # What YAML can hold and a recipe cannot.
    ('model: !!python/object/apply:os.system ["id"]\n', r":1: !!python/object/apply:os\.system is no value"),
    ("common: !!binary aGk=\n", ":1: !!binary is no value"),
    ("common: !!set {a, b}\n", ":1: !!set is no value"),
    ("common: 2024-01-02\n", ":1: common is the date 2024-01-02"),
    ("common: 2024-21-42\n", ":1: '2024-21-42' cannot be read as timestamp .*quote it"),
    ("scheduler: {lr: " + "9" * 5000 + "}\n", ":1: '9+' cannot be read as int"),
    ("? [a, b]\n: 1\n", ":1: a key is a word"),
    ("scheduler:\n  <<: 5\n", ":2: << merges sections, not the number 5"),
    # Keys.
    ("scheduler:\n  lr: 0.1\n  num_epochs: 3\n  lr: 0.2\n", r":4: 'lr' is set twice, first at .*:2$"),
    ("model:\n  type: det\nmodel:\n  type: det\n", ":3: 'model' is set twice"),
    ("scheduler:\n  lrr: 0.1\n", r":2: scheduler\.lrr is no key of a recipe; did you mean scheduler\.lr\?"),
    ("sheduler:\n  lr: 0.1\n", r":1: sheduler is no key of a recipe; did you mean scheduler\?"),
    ("batch_size: 4\n", r"did you mean train\.loader\.batch_size\?"),
    ("eval:\n  batch_size: 4\n", r"did you mean eval\.loader\.batch_size\?"),
    ("scheduler:\n  learning_rate: 4\n", r"did you mean scheduler\.lr\?"),
    ("postprocess:\n  unclip_ratio: 2\n", r"did you mean postprocess\.expand_ratio\?"),
    ("train:\n  loader:\n    Batch-Size: 4\n", r":3: train\.loader\.Batch-Size .* train\.loader\.batch_size\?"),
    ("backbone:\n  name: det_resnet18\n", r"did you mean model\.backbone\?"),
    ("zzz: 1\n", "there are system, common, model"),
    ("1: 2\n", ":1: 1 is no key"),
    # Kinds.
    ("optimizer: SGD\n", ":1: optimizer is the text 'SGD'; it must be a section"),
    ("eval:\n", r":1: eval is nothing \(null\); it must be a section"),
    ("train:\n  dataset: [a]\n", r":2: train\.dataset is the list \['a'\]; it must be a section"),
    ("scheduler:\n  lr: fast\n", r":2: scheduler\.lr is the text 'fast'; it must be a number above 0"),
    ("scheduler:\n  lr: '0.1'\n", "the text '0.1'"),
    ("scheduler:\n  lr: .nan\n", "the number nan"),
    ("scheduler:\n  lr: -1\n", "the number -1"),
    ("scheduler:\n  lr:\n", r"nothing \(null\)"),
    ("scheduler:\n  lr: {a: 1}\n", r"scheduler\.lr is a section; it must be a number"),
    ("train:\n  loader:\n    batch_size: 10.5\n", "it must be a whole number of at least 1"),
    ("train:\n  loader:\n    batch_size: 0\n", "it must be a whole number of at least 1"),
    ("train:\n  loader:\n    batch_size: True\n", "true .*it must be a whole number"),
    ("system:\n  distribute: 1\n", "the number 1; it must be True or False"),
    ("system:\n  distribute: 'False'\n", "the text 'False'; it must be True or False"),
    ("system:\n  mode: 2\n", "it must be 0 or 1"),
    ("postprocess:\n  box_type: qaud\n", r"it must be one of quad, poly; did you mean quad\?"),
    ("postprocess:\n  box_type: on\n", "true .*YAML reads yes, no, on and off so too"),
    ("postprocess:\n  box_thresh: 60\n", "it must be a number from 0 to 1"),
    ("train:\n  dataset:\n    data_dir: [a, 1]\n", "it must be text, or a list, each text"),
    ("eval:\n  dataset:\n    sample_ratio: 2\n", "from 0 to 1"),
    # Pipelines.
    (PIPELINE.replace("pipeline:", "pipeline: DetResize"), ":3: .*is the text 'DetResize'; it must be a list"),
    (PIPELINE + "      []\n", "it must be a list of operations"),
    (PIPELINE + "      - DetResise:\n", r":4: .*\[0\]: there is no operation 'DetResise'; did you mean DetResize\?"),
    (PIPELINE + "      - ToCHWImage:\n      - detresize:\n", r":5: .*\[1\]: .*did you mean DetResize\?"),
    (PIPELINE + "      - ToCHWImage\n", "write `- ToCHWImage:`, with the colon"),
    (PIPELINE + "      - [a]\n", r"is the list \['a'\]; write"),
    (PIPELINE + "      - DetResize:\n        padding: True\n", "has 2 names, DetResize, padding, .*indent"),
    (PIPELINE + "      - DetResize: 32\n", "DetResize is the number 32; its arguments are a section"),
    (PIPELINE + "      - DetResize:\n          target_sise: [1, 2]\n",
     r":5: .*'target_sise'; did you mean target_size\?"),
    (PIPELINE + "      - DetResize:\n          target_size: [1, 2, 3]\n",
     ":5: .*it must be a list of 2, each a whole number"),
    (PIPELINE + "      - DetResize: {limit_type: mim}\n", r"did you mean min\?"),
    (PIPELINE + "      - NormalizeImage: {mean: imagnet}\n", r"did you mean imagenet\?"),
    (PIPELINE + "      - RandomScale:\n", "RandomScale needs scale_range"),
    (PIPELINE + "      - ToCHWImage: {p: 1}\n", "there is no argument 'p'; there are none"),
    # Other recipes.
    ("model:\n  type: rec\n  transform: {name: STN_ON}\n", ":2: model.type is 'rec': a recipe of another task"),
    ("model:\n  type: det\n  head: {name: PSEHead}\n", ":3: model.head.name is 'PSEHead': .* another detector"),
    ("Global: {use_gpu: true}\nArchitecture: {name: x}\n", "configuration of PaddleOCR"),
])
def test_one_line_that_says_what_is_wrong(tmp_path, content, message):
    file = tmp_path / "r.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DbnetError, match=message) as error:
        read_recipe(file)
    assert str(error.value).startswith(str(file))
    assert len(str(error.value)) < 400 + len(str(file))


@pytest.mark.parametrize("content", [
    b"\xef\xbb\xbfscheduler:\n  lr: 1e-3\n", b"scheduler:\r\n  lr: 1e-3\r\n", "scheduler: {lr: 1E-3}".encode("utf-16"),
    b"common:\n  lr: &lr 1e-3\nscheduler:\n  lr: *lr\n",
    b"common: &s {lr: 1e-3, warmup_epochs: 1}\nscheduler:\n  <<: *s\n",
    b"common: &s {lr: 1}\nscheduler:\n  lr: 1e-3\n  <<: [*s]\n", b"%YAML 1.1\n---\nscheduler: {lr: .001e+0}\n...\n",
])
def test_what_yaml_allows_is_read(tmp_path, content):
    (tmp_path / "r.yaml").write_bytes(content)
    assert read_recipe(tmp_path / "r.yaml").get("scheduler.lr") == 1e-3


@pytest.mark.parametrize("name", ["folder", "missing.yaml", "", "secret"])
def test_what_is_no_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DbnetError, match="recipe") as error:
        read_recipe(name)
    assert "\n" not in str(error.value)


KNOWN = [(path, entry) for path, entry in keys(SCHEMA) if isinstance(entry, Key) and path != "common"]


def tree(path: str, value: object) -> str:
    for name in reversed(path.split(".")):
        value = {name: value}
    return yaml.safe_dump(value)


def completed(text: str) -> dict | None:
    """The settings, or None where they are refused as they should be."""
    found, told = {}, None
    try:
        found, _ = complete(parse_yaml(text, "r"))
    except DbnetError as error:
        told = str(error)
    assert told is None or re.fullmatch(r"r(:\d+)?: .+", told)
    return found if told is None else None


@given(st.sampled_from(KNOWN), st.data())
def test_a_slip_in_any_key_finds_the_key(known, data):
    """One letter doubled, dropped or changed: refused, and for names long enough the right one is told."""
    path, _ = known
    head, _, name = path.rpartition(".")
    i = data.draw(st.integers(0, len(name) - 1))
    slip = data.draw(st.sampled_from([name[:i] + name[i] + name[i:], name[:i] + name[i + 1:],
                                      name[:i] + "q" + name[i + 1:]]))
    parent = dict(keys(SCHEMA)).get(head)
    if not slip or slip in (parent.keys if parent else SCHEMA.keys):
        return
    wrong = f"{head}.{slip}".lstrip(".")
    with pytest.raises(DbnetError) as error:
        complete(parse_yaml(tree(wrong, 1), "r"))
    assert f"{wrong} is no key of a recipe" in str(error.value)
    if len(name) > 5:
        assert re.search(r"did you mean \S+\?", str(error.value)), str(error.value)


WRONG = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False, allow_infinity=False),
                  st.text("abc{}:#'\n\t é", max_size=6), st.lists(st.integers(), max_size=3),
                  st.dictionaries(st.sampled_from("ab"), st.integers(), max_size=2))


@given(st.sampled_from(KNOWN), WRONG)
def test_any_value_of_any_key_is_read_or_refused_in_one_line(known, value):
    path, _ = known
    settings = completed(tree(path, value))
    if settings is None:
        return
    for name in path.split("."):
        settings = settings[name]
    assert settings == value or (settings is None and value in ("None", "none"))


@given(st.sampled_from(sorted(TRANSFORMS)), st.data())
def test_any_argument_of_any_operation_is_read_or_refused_in_one_line(name, data):
    arguments = TRANSFORMS[name]
    argument = data.draw(st.sampled_from([*arguments, "p", "zz"]))
    value = data.draw(WRONG)
    settings = completed(tree("train.dataset.transform_pipeline", [{name: {argument: value}}]))
    if settings is not None:
        assert settings["train"]["dataset"]["transform_pipeline"] == [{name: {argument: value}}]


@given(st.one_of(st.binary(max_size=60), st.text(" :-[]{}&*!|>'\"#%@,?\n\tab01<~", max_size=60).map(str.encode)))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(data)
    with pytest.raises(DbnetError) as error:  # no key of a recipe can be spelled with these letters
        read_recipe(file)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)
