"""Benchmarks that tell the speed beside the score and the parity: measuring, the bundle that keeps everything, figures.
"""
