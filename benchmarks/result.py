"""What a benchmark found, as JSON."""

from __future__ import annotations

import argparse
import json
import platform
from typing import Any

import torch


def write_result(arguments: argparse.Namespace, **found: Any) -> None:
    """Writes what was found, where and with which settings, to `--json`, if that is given."""
    if arguments.json is None:
        return
    on_gpu = torch.cuda.is_available()
    about = {
        "device": torch.cuda.get_device_name() if on_gpu else platform.machine(),
        "torch": torch.__version__,
        "settings": {key: str(value) for key, value in vars(arguments).items()},
    }
    arguments.json.write_text(json.dumps(about | found, indent=1) + "\n")
