"""dbnet report"""

from __future__ import annotations

import click

from dbnet.cli.report_check import check
from dbnet.cli.report_merge import merge


@click.group()
def report() -> None:
    """Benchmarks of several machines in one table beside the seed's own; parts put together; figures checked."""


report.add_command(merge)
report.add_command(check)
