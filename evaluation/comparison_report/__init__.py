"""The report of a comparison of two models: one page, Markdown and JUnit, all made of the dict that --json writes.

Every field of that dict may be absent or None: what is not known is left out.
"""

from evaluation.comparison_report.junit import junit
from evaluation.comparison_report.markdown import markdown
from evaluation.comparison_report.page import html
from evaluation.comparison_report.pictures import PICTURED, Picture, heat_map, side_by_side, worst_images

__all__ = ["PICTURED", "Picture", "heat_map", "html", "junit", "markdown", "side_by_side", "worst_images"]
