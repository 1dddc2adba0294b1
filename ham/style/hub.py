"""Names of Hugging Face models: a local folder, or a hub model that the user names as OWNER/NAME. No code of a model runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ham.runtime import UsageError

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def check_model_name(name: str, option: str) -> None:
    """Check that a name is a folder with a config.json, or has the form of a hub name. Raises UsageError.

    "weights/encoder" beside a folder `weights` is a missing folder, not a hub model.
    """
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UsageError(f"{option} {name}: the folder has no config.json; expected a Hugging Face model")
        return
    if folder.exists():
        raise UsageError(f"{option} {name}: is a file; expected the folder of a Hugging Face model")
    is_hub_name = HUB_NAME.fullmatch(name) is not None and not folder.parent.is_dir()
    if not is_hub_name:
        without = {"neutral.model": "neutral.method lexicon", "features.source": "features.encoder chars"}
        raise UsageError(
            f"{option} {name}: no such folder, and not the name of a hub model (OWNER/NAME); "
            f"{without[option]} needs no model"
        )


def loading_options(name: str) -> dict[str, Any]:
    """Return the options for from_pretrained: a local folder never asks the hub, and a model's own code never runs."""
    return {"trust_remote_code": False, "local_files_only": Path(name).is_dir()}
