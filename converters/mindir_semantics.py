"""What a .mindir's graph computes of what names and shapes leave open, read from its output back to its image.

The walk goes through every layer of the network that the weights fit, so that nothing else can stand between them: a
map joined in another order, a padding, an activation. What a ModelSpec can say is said; what it cannot is an error; a
graph written in a way that is not known here is read as far as that, and a note tells what is not read.
Sources: the networks themselves, `ms_models`, and MindOCR 0.3 `mindocr/models`.
"""

from __future__ import annotations

from collections.abc import Mapping

from converters.graph_reading import GraphReading
from converters.mindir_layers import OtherNetworkError
from converters.mindir_maps import ENLARGEMENTS, Maps
from converters.mindir_nodes import read_program
from converters.mindir_values import UnreadError, Value, evaluate, reached
from converters.protobuf_wire import MalformedError
from dbnet.errors import DbnetError, short
from dbnet.parameters import (
    MOBILENET_BLOCKS,
    MOBILENET_FIRST_BLOCK,
    MOBILENET_STEM,
    MOBILENET_TAPS,
    RESNET_BLOCKS,
    MobileBlock,
)
from dbnet.spec import ModelSpec

#: The fields that a graph decides and names and shapes do not.
FIELDS = ("stem_pool", "depthwise_padding", "se_gate", "norm_eps", "offsets", "neck_gate", "upsampling")
#: Maps of strides 4, 8, 16 and 32.
Pyramid = list[Value]


def read_semantics(view: memoryview, spec: ModelSpec, names: Mapping[str, str], where: str,
                   logits: bool = False) -> GraphReading:
    """Reads the graph of a .mindir whose weights are those of `spec`, up to FIELDS. names: canonical -> the file's.
    logits: the file says that it gives these, so that no sigmoid need follow.

    Raises DbnetError for a damaged graph, and for one that computes something else with these weights.
    """
    walk = _Walk(spec, names, logits)
    try:
        program = read_program(view)
        output, in_short = evaluate(program)
        walk.network(output)
    except MalformedError as error:
        raise DbnetError(f"{where}: is damaged or no MindIR: {short(error)}; copy it or export it again") from error
    except OtherNetworkError as error:
        raise DbnetError(f"{where}: its graph is not that of {spec.name}: {short(error)}; the weights alone are no "
                         f"such detector, only MindSpore runs this file") from error
    except UnreadError as error:
        in_short = False
        missing = [name for name in _decided(spec) if name not in walk.said]
        told = f"the default or the record tells {', '.join(missing)}" if missing else "every field was read before"
        walk.note(f"its graph is not read to its end, so what the rest computes is not known: {short(error)}; {told}")
    else:
        kernel = walk.names.get("head.thresh.0.weight")
        if any(name.partition(":")[2] == kernel for name in program.main.parameters):
            walk.note("its threshold branch, which is for training, is not read; step_function is not known from it")
    if in_short:
        walk.note("its graph computes in float16 or bfloat16 in places, the converted model in float32")
    return GraphReading({name: value for name, value in walk.said.items()
                         if name in _decided(spec) or value != getattr(spec, name)}, walk.notes)


def _decided(spec: ModelSpec) -> list[str]:
    """Of FIELDS those that this network has."""
    relevant = spec.relevant_semantics()
    return [name for name in FIELDS if name in relevant and not (name == "se_gate" and spec.se_gate == "none")]


class _Walk(Maps):
    """The networks, from a layer's output back to its input."""

    def __init__(self, spec: ModelSpec, names: Mapping[str, str], logits: bool):
        super().__init__(names)
        self.spec, self.logits = spec, logits

    def network(self, output: Value) -> None:
        value = self.head(output)
        maps = self.asf(value) if self.spec.fusion != "concat" and self.spec.neck == "dbfpn" else \
            self.joined(value, "head.segm.0")
        pyramid = self.neck(maps)
        if self.spec.backbone == "mobilenetv3":
            self.mobilenet(pyramid)
        else:
            self.resnet(pyramid)

    def head(self, output: Value) -> Value:
        path = "head.segm"
        outputs = output.inputs if output.op in ("tuple", "Concat") else (output,)
        outputs = tuple(item for one in outputs for item in (one.inputs if one.op == "tuple" else (one,)))
        probability = next((value for value in reached(output) if value.op == "Sigmoid" and self.ends(value.arg(0))),
                           None)
        if probability is None:
            ends = [value for value in outputs if self.ends(value)]
            if ends and not self.logits:
                raise OtherNetworkError("no sigmoid follows head.segm.6, so its output is no probability")
            if not ends:
                raise UnreadError("no sigmoid behind head.segm.6 is found in it")
            value = ends[0]
        else:
            if probability not in outputs:
                self.note("what follows the probability map in its graph is not read")
            value = probability.arg(0)
        value = self.transposed(value, f"{path}.6")
        value = self.norm(self.activation(value, "ReLU", f"{path}.4"), f"{path}.4")
        value = self.transposed(value, f"{path}.3")
        value = self.norm(self.activation(value, "ReLU", f"{path}.1"), f"{path}.1")
        return self.conv(value, f"{path}.0", 3)

    def ends(self, value: Value) -> bool:
        """Whether this is the head's last layer."""
        return value.op == "BiasAdd" and len(value.inputs) > 1 and \
            self.parameter(value.arg(1), "head.segm.6.bias")

    # Neck -------------------------------------------------------------------------------------------------------------

    def asf(self, value: Value) -> tuple[Value, ...]:
        """Adaptive scale fusion: the maps that it weighs."""
        path = "neck.fuse"
        weighed = self.joined(value, "head.segm.0")
        cuts = [self.two(item, "Mul", lambda one: one.op == "StridedSlice", path) for item in weighed]
        scale = cuts[0][0].arg(0)
        for i, (part, _) in enumerate(cuts):
            whole, begin, end = self.cut(part, 1, path)
            self.same(whole, scale, f"{path}.scale_att")
            if (begin, end) != (i, i + 1):
                raise OtherNetworkError(f"{path} weighs map {i} by the channels from {begin} to {end}")
        scale = self.activation(scale, "Sigmoid", f"{path}.scale_att.0")
        value = self.conv(scale, f"{path}.scale_att.0", 1)
        value = self.attended(value, f"{path}.spat_att", (1,), 3)
        if self.spec.fusion == "asf":
            value = self.attended(value, f"{path}.chan_att", (2, 3), 1)
        maps = self.joined(self.conv(value, f"{path}.conv", 3, bias=True), f"{path}.conv")
        if len(maps) != len(cuts):
            raise UnreadError(f"{path} weighs {len(cuts)} of {len(maps)} maps")
        for (_, own), other in zip(cuts, maps, strict=True):
            self.same(own, other, path)
        return maps

    def attended(self, value: Value, path: str, axes: tuple[int, ...], kernel: int) -> Value:
        """An attention that is added to what it is computed from."""
        weight, source = self.two(value, "Add", lambda one: one.op == "Sigmoid", path)
        weight = self.conv(self.activation(weight, "Sigmoid", f"{path}.2"), f"{path}.2", 1)
        weight = self.conv(self.activation(weight, "ReLU", f"{path}.0"), f"{path}.0", kernel)
        self.same(self.mean(weight, path, axes), source, path)
        return source

    def neck(self, maps: tuple[Value, ...]) -> Pyramid:
        """From the joined maps p5, p4, p3, p2 to c2..c5."""
        squeezed = self.spec.neck == "rsefpn"
        out, unify = ("neck.inp_conv", "neck.ins_conv") if squeezed else ("neck.out", "neck.unify_channels")
        if len(maps) != 4:
            raise UnreadError(f"{len(maps)} maps are joined before head.segm.0")
        self.in_order(maps, [f"{out}.{i}{'.in_conv' if squeezed else ''}.weight" for i in (3, 2, 1, 0)])
        # MindOCR's neck resizes p2 too, to its own size, where the sides are not known before.
        small = [self.smaller(one, f"the map before {out}.{3 - i}", factor)
                 if factor > 1 or one.op in ENLARGEMENTS else one
                 for i, (one, factor) in enumerate(zip(maps, (8, 4, 2, 1), strict=True))]
        layer = self.squeezed if squeezed else self.plain
        sums = [layer(small[3 - i], f"{out}.{i}", 3) for i in range(4)]
        pyramid = []
        for i in range(3):
            own, upper = self.two(sums[i], "Add", lambda one: one.op not in ENLARGEMENTS, f"{unify}.{i}")
            self.same(self.smaller(upper, f"the map before {unify}.{i}", 2), sums[i + 1], f"{unify}.{i}")
            pyramid.append(layer(own, f"{unify}.{i}", 1))
        return [*pyramid, layer(sums[3], f"{unify}.3", 1)]

    def in_order(self, maps: tuple[Value, ...], kernels: list[str]) -> None:
        """Raises OtherNetworkError if the maps were made by these kernels in another order."""
        found = [next((kernels.index(name) for value in reached(one, 100) for name in kernels
                       if self.parameter(value, name)), -1) for one in maps]
        if found != sorted(found) and sorted(found) == list(range(len(kernels))):
            told = ", ".join(f"p{5 - i}" for i in found)
            raise OtherNetworkError(f"it joins the maps in the order {told}, not p5, p4, p3, p2")

    def plain(self, value: Value, path: str, kernel: int) -> Value:
        return self.conv(value, path, kernel)

    def squeezed(self, value: Value, path: str, kernel: int) -> Value:
        """RSEFPN's convolution with its squeeze-and-excitation."""
        weighed, source = self.two(value, "Add", lambda one: one.op == "Mul", path)
        self.same(self.excited(weighed, f"{path}.se_block", ("conv1", "conv2"), "neck_gate"), source, path)
        return self.conv(source, f"{path}.in_conv", kernel)

    def excited(self, value: Value, path: str, leaves: tuple[str, str], gate: str) -> Value:
        """Squeeze-and-excitation: the map that it weighs. gate: the field that says its last function."""
        last = f"{path}.{leaves[1]}.bias"
        weight, source = self.two(
            value, "Mul", lambda one: any(self.parameter(item, last) for item in reached(one, 60)), path)
        inner = self.dense(self.shaped(self.gate(self.shaped(weight), gate, path)), f"{path}.{leaves[1]}")
        inner = self.dense(self.activation(inner, "ReLU", f"{path}.{leaves[0]}"), f"{path}.{leaves[0]}")
        self.same(self.mean(inner, path), source, path)
        return source

    # Backbones --------------------------------------------------------------------------------------------------------

    def mobilenet(self, pyramid: Pyramid) -> None:
        path, taps = "backbone.features", dict(zip(MOBILENET_TAPS, pyramid, strict=True))
        last = MOBILENET_FIRST_BLOCK + len(MOBILENET_BLOCKS)
        value = self.activated_norm(pyramid[3], "HSwish", f"{path}.{last + 1}")
        value = self.conv(value, f"{path}.{last}", 1)
        for i in range(last - 1, MOBILENET_FIRST_BLOCK - 1, -1):
            if i in taps:
                self.same(value, taps[i], f"what follows {path}.{i}")
            block = i - MOBILENET_FIRST_BLOCK
            incoming = MOBILENET_BLOCKS[block - 1].channels if block else MOBILENET_STEM
            value = self.mobile_block(value, f"{path}.{i}.layers", MOBILENET_BLOCKS[block], incoming)
        self.image(self.conv(self.activated_norm(value, "HSwish", f"{path}.1"), f"{path}.0", 3, 2))

    def mobile_block(self, value: Value, path: str, block: MobileBlock, incoming: int) -> Value:
        shortcut = None
        squeezes = block.squeeze and self.spec.se_gate != "none"
        last, act = 7 if squeezes else 6, "HSwish" if block.hard_swish else "ReLU"
        if block.stride == 1 and incoming == block.channels:
            value, shortcut = self.two(value, "Add", lambda one: self.is_norm(one, f"{path}.{last + 1}"), path)
        value = self.conv(self.norm(value, f"{path}.{last + 1}"), f"{path}.{last}", 1)
        if squeezes:
            value = self.excited(value, f"{path}.6", ("conv_reduce", "conv_expand"), "se_gate")
        value = self.activated_norm(value, act, f"{path}.4")
        value = self.conv(value, f"{path}.3", block.kernel, block.stride, block.expanded)
        value = self.conv(self.activated_norm(value, act, f"{path}.1"), f"{path}.0", 1)
        if shortcut is not None:
            self.same(value, shortcut, path)
        return value

    def activated_norm(self, value: Value, op: str, path: str) -> Value:
        return self.norm(self.activation(value, op, path), path)

    def is_norm(self, value: Value, path: str) -> bool:
        return value.op == "BatchNorm" and self.parameter(value.arg(1), f"{path}.gamma")

    def image(self, value: Value) -> None:
        """Raises unless this is what comes in."""
        if value.op != "image":
            raise UnreadError(f"{value.op} stands before its first convolution")

    def resnet(self, pyramid: Pyramid) -> None:
        value = pyramid[3]
        for layer, blocks in zip((4, 3, 2, 1), RESNET_BLOCKS[self.spec.backbone][::-1], strict=True):
            self.same(value, pyramid[layer - 1], f"what follows backbone.layer{layer}")
            for i in range(blocks - 1, -1, -1):
                value = self.residual(value, f"backbone.layer{layer}.{i}", layer, 2 if layer > 1 and i == 0 else 1)
        value = self.activated_norm(self.pool(value), "ReLU", "backbone.bn1")
        self.image(self.conv(value, "backbone.conv1", 7, 2))

    def residual(self, value: Value, path: str, layer: int, stride: int) -> Value:
        bottleneck = self.spec.backbone == "resnet50"
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        strided = 2 if bottleneck else 1
        deformable = layer > 1 and self.spec.deformable == "modulated"
        value = self.activation(value, "ReLU", path)
        value, shortcut = self.two(value, "Add", lambda one: self.is_norm(one, f"{path}.bn{len(kernels)}"), path)
        for i in range(len(kernels), 0, -1):
            value = self.norm(value if i == len(kernels) else self.activation(value, "ReLU", f"{path}.bn{i}"),
                              f"{path}.bn{i}")
            own = stride if i == strided else 1
            if i == 2 and deformable:
                value = self.deformed(value, f"{path}.conv2", own)
            else:
                value = self.conv(value, f"{path}.conv{i}", kernels[i - 1], own)
        if f"{path}.down_sample.0.weight" in self.names:
            shortcut = self.conv(self.norm(shortcut, f"{path}.down_sample.1"), f"{path}.down_sample.0", 1, stride)
        self.same(value, shortcut, path)
        return value
