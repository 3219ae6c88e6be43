"""The proofs: `pytest parity/` compares weights, feature maps, boxes and scores across MindSpore, torch and ONNX."""
