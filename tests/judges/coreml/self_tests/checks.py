"""What the tests have in common."""

import numpy as np

from dtypes import Refused
from package import Package


def distance(a, b):
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.abs(a - b).max())


def refusal(action):
    """The message with which an action is refused, or None when it is not."""
    try:
        action()
    except Refused as error:
        return str(error)
    return None


def examine(path):
    package = Package(path)
    for function in package.functions.values():
        function.try_on_zeros()
