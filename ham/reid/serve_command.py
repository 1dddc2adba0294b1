"""The command `serve` of train_reid.py."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path

from ham.reid.eval_config import ServeConfig
from ham.reid.open_model import open_model, require
from ham.reid.search import open_index
from ham.reid.serve import build_app, listen, require_packages, run_app
from ham.reid.serve_answers import Captioner
from ham.runtime import UsageError, log


def run(config: ServeConfig, load_captioner: Callable[[Path], Captioner]) -> int:
    """Serve the search page until Ctrl-C.

    load_captioner: loads a captioner checkpoint; the captioner belongs to another stage.
    """
    require(config, "checkpoint", "gallery")
    require_packages()
    gallery = Path(str(config.gallery))
    if not gallery.is_dir():
        raise UsageError(f"--gallery {gallery}: no such folder")
    listening = listen(config.host, config.port)
    model, settings, _ = open_model(config)
    index = open_index(model, gallery, settings, config.index, config.max_failed_share, config.refresh)
    captioner = load_captioner(config.captioner) if config.captioner is not None else None
    only_local = is_local(config.host)
    if not only_local:
        log.warning("--host %s: everybody who reaches this address sees the gallery's images", config.host)
    run_app(build_app(model, settings, index, captioner, only_local), listening)
    return 0


def is_local(host: str) -> bool:
    """Return whether an address is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
