"""ms_models/ and torch_reference/ are mirror images: read with `ast`, so that neither framework is needed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HALVES = ("torch_reference", "ms_models")
#: What only one half has: MindSpore's versions differ in ways that torch's do not, and it has its own graph files;
#: torch compiles a graph when asked, MindSpore always does.
ONE_SIDED = {"compat.py", "mindir.py", "compiled.py"}
#: Drives a model in a framework: settings and graphs differ, the calls do not (`test_runners_are_called_alike`,
#: `test_trainers_are_called_alike`, `test_worlds_are_called_alike`).
NOT_MIRRORED = {"runner.py", "train.py", "world.py"}

#: Keywords that a layer must spell out, because the frameworks' defaults differ.
SPELT_OUT = {
    "torch_reference": {"Conv2d": {"stride", "padding", "bias"}, "ConvTranspose2d": {"stride", "padding", "bias"},
                        "BatchNorm2d": {"eps", "momentum"}, "Linear": {"bias"},
                        "MaxPool2d": {"stride", "padding", "ceil_mode"}},
    "ms_models": {"Conv2d": {"stride", "pad_mode", "padding", "has_bias"},
                  "Conv2dTranspose": {"stride", "pad_mode", "padding", "has_bias"},
                  "BatchNorm2d": {"eps", "momentum"}, "Dense": {"has_bias"}, "MaxPool2d": {"stride", "pad_mode"}},
}
#: Share of the old value that a batch norm keeps in MindSpore, share of the new one in torch.
MOMENTUM = {"torch_reference": "0.1", "ms_models": "0.9"}


def files(half: str) -> set[str]:
    return {path.name for path in (ROOT / half).glob("*.py")}


def source(half: str, name: str) -> str:
    return (ROOT / half / name).read_text(encoding="utf-8")


def outline(text: str) -> list[str]:
    """Classes, functions, arguments with defaults, docstrings and attributes in order, one line each."""
    lines: list[str] = []

    def attributes(node: ast.AST) -> None:
        stored = [child for child in ast.walk(node)
                  if isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Store)]
        lines.extend(f"    {ast.unparse(a)}" for a in sorted(stored, key=lambda a: (a.lineno, a.col_offset)))

    def visit(body: list[ast.stmt], indent: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                lines.append(f"{indent}class {node.name}: {ast.get_docstring(node)}")
                visit(node.body, indent + "  ")
            elif isinstance(node, ast.FunctionDef):
                name = "construct" if node.name == "forward" else node.name
                for argument in ast.walk(node.args):
                    if isinstance(argument, ast.arg):
                        argument.annotation = None
                lines.append(f"{indent}def {name}({ast.unparse(node.args)}): {ast.get_docstring(node)}")
                attributes(node)
            elif isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets):
                lines.append(f"{indent}{ast.unparse(node)}")

    visit(ast.parse(text).body, "")
    return lines


def layers(text: str) -> list[tuple[str, dict[str, str]]]:
    """Every nn.X(...) call: its name and keyword arguments."""
    return [(node.func.attr, {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg})
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name) and node.func.value.id == "nn"]


MIRRORED = sorted((files(HALVES[0]) | files(HALVES[1])) - ONE_SIDED - NOT_MIRRORED)


def test_same_files():
    assert files("torch_reference") - ONE_SIDED == files("ms_models") - ONE_SIDED


@pytest.mark.parametrize("name", [name for name in MIRRORED if name != "__init__.py"])
def test_mirrored(name):
    assert outline(source("ms_models", name)) == outline(source("torch_reference", name))


def test_build_is_called_alike():
    signatures = [[line.split(":")[0] for line in outline(source(half, "__init__.py"))] for half in HALVES]
    assert signatures[0] == signatures[1] == ["def build(spec)"]


def test_runners_are_called_alike():
    calls = [[line.split(":")[0].strip() for line in outline(source(half, "runner.py")) if line.startswith("  def ")]
             for half in HALVES]
    shared = "def __init__(self, spec, weights, device=None, stages=('probability',)"
    for methods in calls:
        assert any(line.startswith(shared) for line in methods)
        assert {"def run(self, images)", "def environment(self)"} <= set(methods)


def public(half: str, name: str, kind: str) -> list[str]:
    """Signatures of a class's public methods and of the module's public functions that both halves should share."""
    lines = outline(source(half, name))
    start = next(i for i, line in enumerate(lines) if line.startswith(f"class {kind}:"))
    own = [line for line in lines[start + 1:] if line.startswith("  def ")]
    return [line.split(":")[0].strip() for line in own if line.startswith("  def __init__") or "def _" not in line]


def test_trainers_are_called_alike():
    trainers = [public(half, "train.py", "Trainer") for half in HALVES]
    assert trainers[0] == trainers[1] == [
        "def __init__(self, spec, weights, optimizer, loss, device=None, amp='O0', world=None)",
        "def prepare(self, batch)", "def step(self, batch, rate)", "def weights(self, average=False)",
        "def state(self)", "def load_state(self, state)"]
    for half in HALVES:
        lines = outline(source(half, "train.py"))
        assert "def losses(parts): Waits for the device." in lines
        assert any(line.startswith("def be_repeatable():") for line in lines)


def test_worlds_are_called_alike():
    worlds = [public(half, "world.py", "World") for half in HALVES]
    assert worlds[0][:3] == worlds[1][:3] == [
        "def __init__(self, launch, device=None)", "def total(self, values)", "def leave(self)"]
    for half in HALVES:
        lines = outline(source(half, "world.py"))
        assert "  def __init__(self, shapes, size): None" in lines
        assert any(line.startswith("  def construct(self, values):") for line in lines)


@pytest.mark.parametrize("half", HALVES)
def test_defaults_are_written_out(half):
    found = [(name, call, keywords) for name in MIRRORED for call, keywords in layers(source(half, name))
             if call in SPELT_OUT[half]]
    assert {call for _, call, _ in found} == set(SPELT_OUT[half])
    for name, call, keywords in found:
        assert SPELT_OUT[half][call] <= set(keywords), (name, call, keywords)
        if call == "BatchNorm2d":
            assert keywords["momentum"] == MOMENTUM[half], name


SOUND = '''
LIMIT = 3

class Block(nn.Cell):
    """A block."""

    expansion = 4

    def __init__(self, channels: int, stride: int = 1):
        self.conv1 = nn.Conv2d(channels, channels, 3, pad_mode="pad", padding=1)
        self.bn1, self.relu = nn.BatchNorm2d(channels), nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        return self.relu(self.bn1(self.conv1(x)))

def branch(channels):
    return nn.SequentialCell()
'''


def test_the_frameworks_words_do_not_matter():
    other = SOUND
    for ours, theirs in (("nn.Cell", "nn.Module"), ("construct", "forward"), ("SequentialCell", "Sequential")):
        other = other.replace(ours, theirs)
    assert other != SOUND
    assert outline(other.replace('pad_mode="pad", ', "").replace("x: Tensor", "x: torch.Tensor")) == outline(SOUND)


@pytest.mark.parametrize(("before", "after"), [
    ("class Block", "class Blocks"),
    ("A block.", "Another block."),
    ("expansion = 4", "expansion = 1"),
    ("LIMIT = 3", "LIMIT = 4"),
    ("channels: int, stride: int = 1", "stride: int, channels: int = 1"),
    ("stride: int = 1", "stride: int = 2"),
    ("stride: int = 1", "stride: int"),
    ("stride: int = 1", "steps: int = 1"),
    ("stride: int = 1", "*, stride: int = 1"),
    ("self.conv1 =", "self.conv =", ),
    ("self.bn1, self.relu = nn.BatchNorm2d(channels), nn.ReLU()", "self.relu, self.bn1 = nn.ReLU(), 0"),
    ("self.bn1, self.relu = nn.BatchNorm2d(channels), nn.ReLU()", "self.bn1 = nn.BatchNorm2d(channels)"),
    ("def construct", "def stages"),
    ("def branch(channels):", "def branch(channels, bias):"),
    ("def branch", "def helper():\n    pass\n\ndef branch"),
])
def test_a_difference_is_found(before, after):
    assert before in SOUND
    assert outline(SOUND.replace(before, after, 1)) != outline(SOUND)


def test_a_real_difference_is_found():
    text = source("ms_models", "fpn.py")
    renamed = text.replace("self.asf = ", "self.fusion = ")
    assert renamed != text
    assert outline(renamed) != outline(source("torch_reference", "fpn.py"))


def test_a_layer_without_its_keywords_is_seen():
    assert layers("nn.Conv2d(3, 8, 3, stride=1)") == [("Conv2d", {"stride": "1"})]
