"""The training loop: when it evaluates, what it reports, and that it goes on bit for bit."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests_support import nothing
