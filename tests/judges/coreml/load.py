"""Loads a package with coremltools: its own reader of manifests, weights and types."""

import logging
from pathlib import Path

logging.disable(logging.CRITICAL)

import coremltools as ct  # noqa: E402
from coremltools.converters.mil.frontend.milproto import load as milproto  # noqa: E402


def load(path):
    """Raises what coremltools raises."""
    spec = ct.utils.load_spec(str(path))
    model = ct.models.MLModel(str(path), skip_model_load=True)
    milproto.load(spec, spec.specificationVersion, model.weights_dir or str(Path(path)))


def opinion(path):
    """`accepted`, or what coremltools says against a package."""
    try:
        load(path)
        return "accepted"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
