"""How far a trace and a model are from float64, where the model that is here has the weights that were recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from dbnet.extras import installed
from dbnet.spec import ModelSpec
from parity.causes import least_of, relative_error
from parity.lab import Network, of_weights
from parity.staged import StagedModel
from parity.trace_views import View
from parity.traced import TracedModel

#: Pixels of an input that the referee runs on: a ResNet-50 takes a minute for twice as many.
LARGEST = 1_500_000


def recorded_network(traced: TracedModel, live: StagedModel) -> Network | None:
    """What was recorded, with the weights from here; None where these are others, or the network is not known."""
    spec, own = traced.runner.spec, live.network
    same = getattr(traced.runner, "weights_digest", None) == getattr(live.runner, "weights_digest", None) is not None
    return Network(replace(own.spec, **spec.semantics()), own.weights) if (
        same and own is not None and isinstance(spec, ModelSpec)) else None


def distances(traced: TracedModel, live: StagedModel, tensor: np.ndarray,
              *sides: Mapping[str, View]) -> dict[str, tuple[float | None, ...]]:
    """stage -> how far each side is from what was recorded if it is computed in float64, relative to the largest
    value. Empty where that cannot be known: other weights, no torch, a trace that keeps no values, a large image."""
    network = recorded_network(traced, live)
    whole = [stage for stage in sides[0] if all(stage in views and views[stage].full is not None for views in sides)]
    if network is None or not installed("torch") or not whole or tensor[0, 0].size > LARGEST:
        return {}
    exact = of_weights(network, "float64").run(tensor)
    return {stage: tuple(relative_error(exact[stage], np.asarray(views[stage].full), least_of(stage))
                         for views in sides) for stage in whole if stage in exact}
