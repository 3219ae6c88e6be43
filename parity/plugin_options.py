"""Reading the options of `pytest parity/`, those that mean the same to two models and to a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from converters.choices import parse_setting
from converters.load import SourceOptions
from dbnet.pixel_formats import pixel_choice
from evaluation.detecting_inputs import find_images
from parity.traced import is_traced


def option(config: pytest.Config, name: str) -> Any:
    """The value of an option; None, too, where pytest learnt of the option when it had read its arguments already."""
    return config.getoption(name, default=None)


def required(config: pytest.Config) -> list[str]:
    """The runners of --require."""
    return [name.strip() for name in (option(config, "require") or "").split(",") if name.strip()]


def given(config: pytest.Config, names: tuple[str, ...]) -> str | None:
    """The first of the options that was given, as it is written."""
    name = next((name for name in names if option(config, name) not in (None, False)), None)
    return None if name is None else f"--{name.replace('_', '-')}"


def check_model(config: pytest.Config, name: str) -> Path:
    """The model file of an option. Raises UsageError if it is none."""
    path = Path(option(config, name))
    if not path.is_file() and not is_traced(path):  # FILE.trace:RUN
        raise pytest.UsageError(f"--{name} {path}: is {'no file' if path.exists() else 'not there'}")
    return path


def chosen_images(config: pytest.Config) -> tuple[tuple[str, ...], int | None]:
    """--images and --limit. Raises UsageError for a limit without images, DbnetError for images that are not there."""
    limit, images = option(config, "limit"), tuple(option(config, "images") or ())
    if limit is not None and (limit < 1 or not images):
        raise pytest.UsageError("--limit wants a number from 1" if images else "--limit needs --images")
    for each in images:
        find_images([each])
    return tuple(dict.fromkeys(images)), limit


def source_options(config: pytest.Config) -> SourceOptions:
    """What is said about model files. Raises UsageError, and DbnetError for unknown --pixels."""
    if (pixels := option(config, "pixels")) is not None:
        pixel_choice(pixels)
    return SourceOptions(option(config, "spec"), option(config, "from"),
                         dict(map(_setting, option(config, "set") or ())), option(config, "take"),
                         option(config, "allow_edited") or False, option(config, "part"), pixels,
                         option(config, "map_output"))


def _setting(text: str) -> tuple[str, Any]:
    try:
        return parse_setting(text)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
