"""Maps in a .mindir's graph that are pooled, enlarged, joined, cut or deformed, from a layer's output to its input.

As in `mindir_layers`: every method takes the value that is given and returns the one it was made of.
"""

from __future__ import annotations

from converters.mindir_layers import Layers, OtherNetworkError, sides
from converters.mindir_values import UnreadError, Value, reached

#: Enlargements by the nearest pixel, and by others.
_NEAREST = ("ResizeNearestNeighbor", "ResizeNearestNeighborV2", "UpsampleNearest2D")
_OTHER_RESIZES = ("ResizeBilinear", "ResizeBilinearV2", "ResizeBicubic", "UpsampleBilinear2D", "ResizeLinear1D")
ENLARGEMENTS = (*_NEAREST, *_OTHER_RESIZES)
#: The masks of `StridedSlice`, in the order of its inputs.
_MASKS = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
#: Padding in rows and columns, nothing in images and channels, as `Pad` writes the symmetric one.
_BORDER = ((0, 0), (0, 0), (1, 1), (1, 1))


class Maps(Layers):
    """Layers, and what is done to maps as a whole."""

    def smaller(self, value: Value, path: str, factor: int) -> Value:
        """What was enlarged by its nearest pixels; says `upsampling`. factor: 1 for a map that is large enough."""
        value, shifted = self.unshifted(value, path, factor)
        if value.op in _OTHER_RESIZES:
            raise OtherNetworkError(f"{path} is enlarged by {value.op}, not by its nearest pixels")
        self.expect(value, _NEAREST, f"the enlargement of {path}")
        if value.constant(3, "half_pixel_centers"):
            raise UnreadError(f"{path} is enlarged between half pixels")
        aligned = bool(value.constant(2, "align_corners")) and value.op != "UpsampleNearest2D"
        if aligned and shifted:
            raise OtherNetworkError(f"{path} is enlarged with aligned corners, and moved")
        kind = "align_corners" if aligned else "rounded" if shifted else "floor"
        # By 2, `floor` and `rounded` are the same; by 1 all are.
        if factor > 2 or (factor == 2 and "align_corners" in (kind, self.said.get("upsampling"))):
            self.say("upsampling", kind, path)
        return value.arg(0)

    def unshifted(self, value: Value, path: str, factor: int) -> tuple[Value, bool]:
        """What was moved up and left by factor / 2 - 1 pixels, as `rounded` does, and whether it was."""
        by = factor // 2 - 1
        if by < 1 or value.op != "Concat":
            return value, False
        for axis in (3, 2):
            parts = [self.cut(part, axis, path) for part in self.joined(value, path, axis)]
            if len(parts) != 2 or parts[0][0] is not parts[1][0] or [part[1:] for part in parts] != [(by, None),
                                                                                                     (-by, None)]:
                raise UnreadError(f"{path} is put together of parts")
            value = parts[0][0]
        return value, True

    def cut(self, value: Value, axis: int, path: str) -> tuple[Value, int, int | None]:
        """What a part was cut from along one axis, where it begins and where it ends (None: at the end)."""
        self.expect(value, ("StridedSlice",), f"a part of a map before {path}")
        begin, end, steps = (value.constant(i, name) for i, name in ((1, "begin"), (2, "end"), (3, "strides")))
        opened, open_ended, *others = (value.constant(4 + i, name) or 0 for i, name in enumerate(_MASKS))
        sound = all(isinstance(one, tuple) and axis < len(one) == len(begin) for one in (begin, end, steps))
        if not sound or set(steps) != {1} or any(others) or not isinstance(opened, int) or \
                not isinstance(open_ended, int):
            raise UnreadError(f"a map before {path} is cut in another way")
        starts = [0 if opened >> i & 1 else start for i, start in enumerate(begin)]
        ends = [None if open_ended >> i & 1 else stop for i, stop in enumerate(end)]
        if any(starts[i] != 0 or ends[i] is not None for i in range(len(starts)) if i != axis):
            raise UnreadError(f"a map before {path} is cut along several axes")
        return value.arg(0), starts[axis], ends[axis]

    def joined(self, value: Value, path: str, axis: int = 1) -> tuple[Value, ...]:
        """The maps that are joined along an axis."""
        self.expect(value, ("Concat",), f"the joined maps before {path}")
        items = value.arg(0).inputs if value.arg(0).op == "tuple" else value.inputs
        told = value.constant(len(value.inputs) - 1, "axis")
        if told is not None and told not in (axis, axis - 4):
            raise OtherNetworkError(f"the maps before {path} are joined along axis {told}")
        return tuple(item for item in items if item.op != "constant")

    def pool(self, value: Value) -> Value:
        """The stem's 3x3 max-pool of stride 2; says `stem_pool`."""
        value = self.shaped(value)
        if value.op.startswith("AvgPool"):
            raise OtherNetworkError("the stem pools by averages")
        self.expect(value, ("MaxPool", "MaxPool3DWithArgmax"), "the stem's max-pool")
        flat = value.op == "MaxPool"
        if flat:
            self.channels_first(value, -1, "the stem's max-pool")
        told = sides(value, "kernel_size" if flat else "ksize"), sides(value, "strides")
        if told != ((3, 3), (2, 2)) or value.attributes.get("ceil_mode"):
            raise OtherNetworkError(f"the stem's max-pool has sides {told[0]} and stride {told[1]}, or rounds up")
        if not flat:
            pads = sides(value, "pads")
            source, kind = self.shaped(value.arg(0)), "symmetric" if pads == (1, 1) else f"{pads}"
        else:
            source, kind = self.padded(value)
        if kind not in ("same", "symmetric"):
            raise OtherNetworkError(f"the stem's max-pool has the padding {kind}, neither symmetric nor same")
        self.say("stem_pool", kind, "the stem's max-pool")
        return source

    def padded(self, value: Value) -> tuple[Value, str]:
        """What a `MaxPool` of MindSpore pools, and how that is padded; it knows `same` and `valid` only."""
        mode, source = str(value.attributes.get("pad_mode")).lower(), value.arg(0)
        if mode == "same":
            return source, "same"
        if mode != "valid" or (source.op != "Pad" and "Pad" in source.op):
            raise UnreadError(f"the stem's max-pool has the padding {mode} behind {source.op}")
        if source.op == "Pad":
            border = source.attributes.get("paddings")
            return source.arg(0), "symmetric" if border == _BORDER else f"{border}"
        return source, "none"

    def deformed(self, value: Value, path: str, stride: int) -> Value:
        """A deformable convolution, of which the layer that predicts its offsets is read; says `offsets`."""
        offsets = f"{path}_offset"
        if not any(self.parameter(found, f"{path}.weight") for found in reached(value)):
            raise OtherNetworkError(f"where {path} is expected stands another kernel")
        for found in reached(value):
            if found.op == "Conv2D" and len(found.inputs) > 1 and self.parameter(found.arg(1), f"{offsets}.weight"):
                break
        else:
            raise UnreadError(f"nothing predicts the offsets of {path}")
        told = sides(found, "stride")
        if told not in ((1, 1), (stride, stride)):
            raise OtherNetworkError(f"{offsets} has the stride {told}")
        self.note("its deformable convolutions are not read operator by operator, only the layers that predict their "
                  "offsets")
        if stride > 1:
            self.say("offsets", "mhliao" if told == (1, 1) else "strided", offsets)
        return self.conv(found, offsets, 3, told[0])
