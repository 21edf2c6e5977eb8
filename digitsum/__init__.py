"""Trains and runs, on Ray, networks that add up the handwritten digits in an image."""

__version__ = "0.1.0"
