"""dbnet data"""

from __future__ import annotations

import click

from dbnet.cli.data_check import check
from dbnet.cli.data_convert import convert
from dbnet.cli.data_show import show
from dbnet.cli.data_synth import synth


@click.group()
def data() -> None:
    """Data sets as they were published: convert their labels, check them, show them."""


data.add_command(convert)
data.add_command(check)
data.add_command(show)
data.add_command(synth)
