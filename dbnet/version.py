"""The version. It stands here so that a bare clone knows it; CITATION.cff and CHANGELOG.md repeat it."""

VERSION = "0.1.0"
