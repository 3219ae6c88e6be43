"""dbnet specs"""

from __future__ import annotations

import click

from dbnet.cli.options import json_option, print_table, write_json

HEIGHT, WIDTH = 736, 1280


@click.command()
@json_option
def specs(json_path: str | None) -> None:
    """List the known networks: parameters, size, operations, and the semantics that decide their numbers."""
    from dbnet.parameters import count_operations, parameters
    from dbnet.spec import SPECS
    rows = []
    for spec in SPECS.values():
        values = sum(p.size for p in parameters(spec))
        rows.append({"spec": spec.name, "tensors": len(parameters(spec)), "parameters": values,
                     "inference_parameters": sum(p.size for p in parameters(spec) if not p.training_only),
                     "megabytes": round(values * 4 / 1e6, 1),
                     "gflops": round(count_operations(spec, HEIGHT, WIDTH) / 1e9, 1), "semantics": spec.semantics()})
    if json_path:
        write_json(json_path, rows)
    if json_path == "-":
        return
    print_table(f"Operations at {HEIGHT}x{WIDTH}, one multiply-add = 2, without the training branch; float32 sizes.",
                ("spec", "tensors", "parameters", "for inference", "MB", "GFLOPs", "semantics"),
                [(r["spec"], r["tensors"], f"{r['parameters']:,}", f"{r['inference_parameters']:,}", r["megabytes"],
                  r["gflops"], _semantics(str(r["spec"]))) for r in rows], right=(1, 2, 3, 4, 5))


def _semantics(name: str) -> str:
    from dbnet.spec import SPECS
    shown = SPECS[name].relevant_semantics()
    told = ("neck_channels", "neck", "fusion", "stem_pool", "first_shortcut", "depthwise_padding", "se_gate",
            "neck_gate", "upsampling", "deformable", "offsets")
    usual = (("deformable", "none"), ("neck", "dbfpn"), ("first_shortcut", "identity"))
    return ", ".join(f"{k}={shown[k]}" for k in told if k in shown and (k, shown[k]) not in usual)
