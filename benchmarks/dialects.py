"""Every project's own network with random weights, its file converted, the two probabilities compared:
`python benchmarks/dialects.py [--size H W] [--seed N]`.

Projects that are not installed are named and left out: `pip install mindocr mindspore` (MindOCR), `paddlepaddle` (for
PaddleOCR's networks, `benchmarks/paddle_networks.py`), `easyocr torch` and `mmocr mmdet mmengine mmcv-lite torch`, each
in an environment of its own. What they save goes through `.onnx`, and back into the project's own names, which must
then be what it saved, bit for bit. Exit code 1 if a probability is off by more than 1e-4.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.machinery
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.postprocess import module_alone
from converters.convert import convert
from converters.dialects import DIALECTS
from converters.formats import read_file
from converters.weights import same_bits
from evaluation.runners import open_runner

#: One row: project, network, whose file, its own probability (1, 1, H, W), semantics a bare file leaves open.
Row = tuple[str, str, Path, np.ndarray]
TOLERANCE = 1e-4


def image(size: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 3, *size)).astype(np.float32)


def values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """What a tensor is filled with: neither all alike nor so large that the probability is 0 or 1 everywhere."""
    leaf = name.rpartition(".")[2]
    if leaf in ("running_var", "moving_variance", "_variance"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) < 2:
        centre = 1.0 if leaf in ("weight", "gamma") else 0.0
        return (centre + 0.1 * rng.standard_normal(shape)).astype(np.float32)
    into = int(np.prod(shape[1:]))
    return (rng.standard_normal(shape) * (1.0 / into) ** 0.5).astype(np.float32)


# The projects ---------------------------------------------------------------------------------------------------------


def of_paddle(folder: Path, x: np.ndarray, rng: np.random.Generator) -> Iterator[Row]:
    import paddle

    from benchmarks.paddle_networks import networks
    paddle.set_device("cpu")
    for number, (name, build) in enumerate(networks().items()):
        net = build()
        net.eval()
        net.set_state_dict({n: values(n, tuple(t.shape), rng) for n, t in net.state_dict().items()})
        path = folder / f"paddle{number}.pdparams"
        paddle.save(net.state_dict(), str(path))
        yield "PaddleOCR", name, path, net(paddle.to_tensor(x)).numpy()


def of_mindocr(folder: Path, x: np.ndarray, rng: np.random.Generator) -> Iterator[Row]:
    import mindspore as ms
    needed = ("mindocr.utils.misc", "mindocr.models.utils.attention_cells")
    mobile = alone("mindocr.models.backbones.det_mobilenet", *needed).det_mobilenet_v3_enhance
    original = alone("mindocr.models.backbones.det_mobilenet", *needed).det_mobilenet_v3
    resnets = alone("mindocr.models.backbones.det_resnet")
    necks, heads = alone("mindocr.models.necks.fpn"), alone("mindocr.models.heads.det_db_head")

    class Detector(ms.nn.Cell):
        def __init__(self, backbone: Any, neck: Any, head: Any):
            super().__init__()
            self.backbone, self.neck, self.head = backbone, neck, head

        def construct(self, image: Any) -> Any:
            return self.head(self.neck(self.backbone(image)))

    ms.set_context(mode=ms.GRAPH_MODE)
    enhanced = partial(mobile, architecture="large", alpha=0.5, pretrained=False)
    own = {"architecture": "large", "alpha": 0.5, "out_stages": [5, 8, 14, 20], "pretrained": False,
           "bottleneck_params": {"se_version": "SqueezeExciteV2", "always_expand": True}}
    fused = partial(necks.DBFPN, bias=False, use_asf=True, channel_attention=True)
    networks = {
        "db_mobilenetv3_ppocrv3": (partial(enhanced, disable_se=True), necks.RSEFPN, heads.DBHeadEnhance, 96),
        "mobilenet_v3_enhance, DBFPN": (partial(enhanced, disable_se=True), necks.DBFPN, heads.DBHead, 96),
        "the same with SE": (partial(enhanced, disable_se=False), necks.DBFPN, heads.DBHead, 96),
        "db_mobilenetv3": (partial(original, **own), necks.DBFPN, heads.DBHead, 256),
        "db_r18": (partial(resnets.det_resnet18, pretrained=False), necks.DBFPN, heads.DBHead, 256),
        "db_r50": (partial(resnets.det_resnet50, pretrained=False), necks.DBFPN, heads.DBHead, 256),
        "dbpp_r50": (partial(resnets.det_resnet50, pretrained=False), fused, heads.DBHead, 256),
    }
    for number, (name, (backbone_of, neck, head, width)) in enumerate(networks.items()):
        backbone = backbone_of()
        net = Detector(backbone, neck(backbone.out_channels, out_channels=width), head(width))
        net.set_train(False)
        for parameter in net.get_parameters():
            parameter.set_data(ms.Tensor(values(parameter.name, parameter.shape, rng)))
        path = folder / f"mindocr{number}.ckpt"
        ms.save_checkpoint(net, str(path))
        probability = net(ms.Tensor(x)).asnumpy()
        yield "MindOCR", name, path, probability
        ms.export(net, ms.Tensor(x), file_name=str(path.with_suffix(".mindir")), file_format="MINDIR")
        yield "MindOCR", f"{name}, .mindir", path.with_suffix(".mindir"), probability


def filled(net: Any, rng: np.random.Generator) -> Any:
    """A torch network with `values`, in evaluation mode."""
    import torch
    net.load_state_dict({n: torch.from_numpy(values(n, tuple(t.shape), rng)) if t.is_floating_point() else t
                         for n, t in net.state_dict().items()})
    return net.eval()


def deform(x: Any, offset: Any, mask: Any, weight: Any, stride: int) -> Any:
    """A 3x3 modulated deformable convolution of torch tensors by ONNX's operator; the projects' must be compiled."""
    import onnxruntime
    import torch
    from onnx import TensorProto, helper
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in "xwom"]
    node = helper.make_node("DeformConv", ["x", "w", "o", "", "m"], ["y"], strides=[stride] * 2, pads=[1] * 4,
                            kernel_shape=[3, 3])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)
    graph = helper.make_graph([node], "one", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    feed = {name: tensor.detach().numpy() for name, tensor in zip("xwom", (x, weight, offset, mask), strict=True)}
    return torch.from_numpy(onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)[0])


def of_easyocr(folder: Path, x: np.ndarray, rng: np.random.Generator) -> Iterator[Row]:
    import torch
    backbones = alone("easyocr.DBNet.backbones.resnet")
    decoders = alone("easyocr.DBNet.decoders.seg_detector")

    class Modulated(torch.nn.Module):
        def __init__(self, into: int, out: int, stride: int = 1, **_settings: Any):
            super().__init__()
            self.weight, self.stride = torch.nn.Parameter(torch.zeros(out, into, 3, 3)), stride

        def forward(self, x: Any, offset: Any, mask: Any) -> Any:
            return deform(x, offset, mask, self.weight, self.stride)

    operators = types.ModuleType("easyocr.DBNet.assets.ops.dcn")
    operators.__dict__.update(ModulatedDeformConv=Modulated, DeformConv=None)
    for name in ("easyocr.DBNet.assets", "easyocr.DBNet.assets.ops"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules[operators.__name__] = operators
    for name, channels in (("resnet18", [64, 128, 256, 512]), ("resnet50", [256, 512, 1024, 2048]),
                           ("deformable_resnet18", [64, 128, 256, 512])):
        net = torch.nn.Module()
        net.backbone = getattr(backbones, name)(pretrained=False)
        net.decoder = decoders.SegDetector(in_channels=channels, adaptive=True, k=50)
        filled(net, rng)
        path = folder / f"easyocr_{name}.pth"
        torch.save({f"model.module.{n}": t for n, t in net.state_dict().items()}, path)
        with torch.no_grad():
            yield "EasyOCR", name, path, net.decoder(net.backbone(torch.from_numpy(x)), training=False).numpy()


def of_mmocr(folder: Path, x: np.ndarray, rng: np.random.Generator) -> Iterator[Row]:
    import torch
    backbone, neck, head = mmocrs_classes()
    deformable = {"type": "DCNv2", "deform_groups": 1, "fallback_on_stride": False}
    for depth, dcn in ((18, None), (50, None), (50, deformable)):
        channels = [64, 128, 256, 512] if depth == 18 else [256, 512, 1024, 2048]
        net = torch.nn.Module()
        where = (False, True, True, True) if dcn else (False,) * 4
        net.backbone = backbone(dcn=dcn, stage_with_dcn=where, **common(depth))
        net.neck, net.det_head = neck(in_channels=channels, lateral_channels=256), head(in_channels=256)
        filled(net, rng)
        path, name = folder / f"mmocr{depth}.pth", f"dbnet_resnet{depth}{'-dcnv2' * bool(dcn)}_fpnc"
        torch.save({"meta": {"mmocr_version": "1.0.1"}, "state_dict": net.state_dict()}, path)
        with torch.no_grad():
            fused = net.neck(net.backbone(torch.from_numpy(x)))
            yield "MMOCR", name, path, net.det_head(fused, None, mode="predict")[:, None].numpy()


def common(depth: int) -> dict[str, Any]:
    """What MMOCR's recipes say of every ResNet."""
    return {"depth": depth, "num_stages": 4, "out_indices": (0, 1, 2, 3), "frozen_stages": -1, "norm_eval": False,
            "norm_cfg": {"type": "BN", "requires_grad": True}, "style": "caffe" if depth == 18 else "pytorch"}


def alone(name: str, *needed: str) -> Any:
    """`module_alone`, again and again for one package."""
    module = module_alone(name, *needed)
    top = sys.modules[name.partition(".")[0]]
    if top.__spec__ is None:
        top.__spec__ = importlib.machinery.ModuleSpec(top.__name__, None, is_package=True)
        top.__spec__.submodule_search_locations = list(top.__path__)
    return module


def mmocrs_classes() -> tuple[Any, Any, Any]:
    """Backbone, neck and head without their packages' imports, which want compiled operators."""
    import torch
    for name in ("mmdet", "mmocr", "mmengine", "mmcv"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    class Stub(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (torch.nn.Module,), {})

    class Pack(torch.nn.Module):
        """MMCV's ModulatedDeformConv2dPack, which is DCNv2, without its compiled operator."""

        def __init__(self, into: int, out: int, kernel_size: int = 3, stride: int = 1, **_settings: Any):
            super().__init__()
            self.weight, self.stride = torch.nn.Parameter(torch.zeros(out, into, 3, 3)), stride
            self.conv_offset = torch.nn.Conv2d(into, 27, kernel_size, stride, 1)

        def forward(self, x: Any) -> Any:
            first, second, mask = torch.chunk(self.conv_offset(x), 3, 1)
            return deform(x, torch.cat((first, second), 1), torch.sigmoid(mask), self.weight, self.stride)

    importlib.import_module("mmengine.registry").MODELS.register_module("DCNv2", module=Pack, force=True)
    operators = Stub("mmcv.ops")
    operators.__spec__ = importlib.machinery.ModuleSpec("mmcv.ops", None)
    sys.modules.setdefault("mmcv.ops", operators)
    layers = alone("mmdet.models.layers.res_layer")
    sys.modules["mmdet.models.layers"].ResLayer = layers.ResLayer  # type: ignore[attr-defined]
    backbone = alone("mmdet.models.backbones.resnet").ResNet
    neck = alone("mmocr.models.textdet.necks.fpn_cat").FPNC

    class Head(torch.nn.Module):
        def __init__(self, **_settings: Any):
            super().__init__()

    for name, content in (("mmocr.models.textdet.heads", {"BaseTextDetHead": Head}),
                          ("mmocr.structures", {"TextDetDataSample": object}),
                          ("mmocr.utils.typing_utils", {"DetSampleList": list})):
        package = types.ModuleType(name)
        package.__dict__.update(content, __path__=[])
        sys.modules[name] = package
    root = Path(importlib.util.find_spec("mmocr").submodule_search_locations[0])  # type: ignore[union-attr,index]
    sys.modules["mmocr.models.textdet.heads"].__path__ = [str(root / "models/textdet/heads")]
    return backbone, neck, importlib.import_module("mmocr.models.textdet.heads.db_head").DBHead


PROJECTS = {"PaddleOCR": of_paddle, "MindOCR": of_mindocr, "EasyOCR": of_easyocr, "MMOCR": of_mmocr}


# The table ------------------------------------------------------------------------------------------------------------


def compare(row: Row, x: np.ndarray, folder: Path) -> float:
    """Largest difference of the probabilities; prints a line. Raises AssertionError if the way back is another."""
    project, name, path, theirs = row
    done = convert(path, folder / "ours.onnx", force=True)
    ours = open_runner(done.target, runner="onnxruntime", device="cpu", stages=("probability",)).run(x)["probability"]
    suffix = ".ckpt" if path.suffix == ".mindir" else path.suffix
    back = convert(done.target, folder / f"back{suffix}", to=done.source.dialect, force=True)
    again, saved = read_file(back.target).tensors, read_file(path).tensors
    strip = {n: n.removeprefix("model.module.") for n in (*again, *saved)}
    saved = {strip[n]: a for n, a in saved.items() if not n.endswith("num_batches_tracked")}
    again = {strip[n]: a for n, a in again.items() if not n.endswith("num_batches_tracked")}
    lost = [n for n in saved if n not in again or not same_bits(saved[n], again[n])]
    assert again.keys() == saved.keys(), sorted(again.keys() ^ saved.keys())[:5]
    lost = [n for n in lost if n not in DIALECTS[done.source.dialect].unused]
    assert not lost, lost[:5]
    worst = float(np.abs(ours - theirs).max())
    print(f"{project:10} {name:38} {done.source.dialect:16} {done.source.record.spec.name:26} "
          f"p {theirs.min():.3f}..{theirs.max():.3f}  max |dp| {worst:.1e}", flush=True)
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(96, 160), metavar=("H", "W"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--project", choices=list(PROJECTS))
    asked = parser.parse_args()
    if asked.project is None:  # each in a process of its own: Paddle and MindSpore bring libraries of the same names
        again = [sys.executable, __file__, "--size", *map(str, asked.size), "--seed", str(asked.seed)]
        return max(subprocess.run([*again, "--project", name], check=False).returncode for name in PROJECTS)
    return one_project(asked.project, image(tuple(asked.size), asked.seed), np.random.default_rng(asked.seed))


def one_project(project: str, x: np.ndarray, rng: np.random.Generator) -> int:
    """Every network of a project; the exit code."""
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        try:
            for row in PROJECTS[project](Path(name), x, rng):
                worst = max(worst, compare(row, x, Path(name)))
        except ModuleNotFoundError as error:
            print(f"{project:10} left out: {error}", flush=True)
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
