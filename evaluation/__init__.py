"""Detecting, scoring and reporting, with any runtime."""
