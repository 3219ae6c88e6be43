"""Bundles of `dbnet bench` as one table beside the seed's own rows, compared with older ones, and scored again."""
