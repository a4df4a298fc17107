"""SOLO (arXiv 1912.04488): the model zoo, retrained, re-evaluated and set beside the published numbers."""

__version__ = "0.1.0"
