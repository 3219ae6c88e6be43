"""ONNX Runtime's execution providers by name: what `onnxruntime:NAME` may be, without importing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_SUFFIX = "ExecutionProvider"


@dataclass(frozen=True)
class Provider:
    """name: ONNX Runtime's. kinds: of the devices that it runs on (`dbnet.running`), the usual one first; none where it
    has one of its own, which has no name here. package: the distribution that has it, in the place of onnxruntime;
    None: builds of one's own only. options: for exact float32 arithmetic. beside: providers that take what it leaves.
    """

    name: str
    kinds: tuple[str, ...] = ()
    package: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()

    def settings(self, kind: str, index: int) -> list[Any]:
        """What `InferenceSession` takes as `providers`, for the device of a kind."""
        own = dict(self.options)
        if self.name == "OpenVINOExecutionProvider":
            own["device_type"] = "CPU" if kind == "cpu" else f"GPU.{index}"
        elif kind != "cpu":
            own["device_id"] = str(index)
        return [(self.name, own), *(provider_of(name).settings(kind, index)[0] for name in self.beside)]


#: By the names that are typed. Names, options, and what is built with what: onnxruntime.ai/docs/execution-providers and
#: get_all_providers() of 1.32. TF32 keeps three decimal digits, CANN's default is float16.
PROVIDERS = {
    "cpu": Provider("CPUExecutionProvider", ("cpu",), "onnxruntime"),
    "cuda": Provider("CUDAExecutionProvider", ("gpu",), "onnxruntime-gpu", {"use_tf32": "0"}),
    "tensorrt": Provider("TensorrtExecutionProvider", ("gpu",), "onnxruntime-gpu", {"trt_fp16_enable": "0"}, ("cuda",)),
    "cann": Provider("CANNExecutionProvider", ("ascend",), "onnxruntime-cann",
                     {"precision_mode": "must_keep_origin_dtype"}),
    "openvino": Provider("OpenVINOExecutionProvider", ("cpu", "gpu"), "onnxruntime-openvino", {"precision": "FP32"}),
    "dml": Provider("DmlExecutionProvider", ("gpu",), "onnxruntime-directml"),
    "rocm": Provider("ROCMExecutionProvider", ("gpu",), "onnxruntime-rocm"),
    "migraphx": Provider("MIGraphXExecutionProvider", ("gpu",), "onnxruntime-migraphx"),
    "qnn": Provider("QNNExecutionProvider", (), "onnxruntime-qnn"),
    "nvtensorrtrtx": Provider("NvTensorRTRTXExecutionProvider", ("gpu",)),
    "webgpu": Provider("WebGpuExecutionProvider"),
    "coreml": Provider("CoreMLExecutionProvider", (), "onnxruntime"),
    "dnnl": Provider("DnnlExecutionProvider", ("cpu",)),
    "xnnpack": Provider("XnnpackExecutionProvider", ("cpu",)),
    "acl": Provider("ACLExecutionProvider", ("cpu",)),
    "armnn": Provider("ArmNNExecutionProvider", ("cpu",)),
    "vitisai": Provider("VitisAIExecutionProvider"),
    "nnapi": Provider("NnapiExecutionProvider"),
    "rknpu": Provider("RknpuExecutionProvider"),
    "azure": Provider("AzureExecutionProvider", ("cpu",), "onnxruntime"),
}
#: Who runs on a device of a kind where no provider is named.
OF_KIND = {"cpu": "cpu", "gpu": "cuda", "ascend": "cann"}
#: Other words for them.
_ALSO = {"directml": "dml", "trt": "tensorrt", "ascend": "cann", "npu": "cann", "gpu": "cuda"}


def short_name(text: str) -> str | None:
    """`CUDAExecutionProvider`, `CUDA` -> `cuda`. A provider that is not known here keeps its long name, as it is
    written; None for what is no provider's name.
    """
    bare = text.lower().removesuffix(_SUFFIX.lower())
    bare = _ALSO.get(bare, bare)
    if bare in PROVIDERS:
        return bare
    return text if text.endswith(_SUFFIX) and text.isascii() and text.isidentifier() and bare else None


def provider_of(variant: str) -> Provider:
    """Of a name that `short_name` gave."""
    return PROVIDERS.get(variant) or Provider(variant)
