"""The schedules against the recorded reference, and at the points one can name by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ham.reid.schedule import MODES, lr_factor
from ham.runtime import UsageError


def test_equal_every_recorded_run(parity: Path) -> None:
    recorded = json.loads((parity / "lr_schedule.json").read_text())
    assert len(recorded["runs"]) >= 8
    for run in recorded["runs"]:
        options = recorded["default_args"] | run["overrides"]
        for group, base in enumerate(run["base_lrs"]):
            found = [
                base
                * lr_factor(
                    epoch - 1,
                    options["num_epoch"],
                    options["warmup_epochs"],
                    options["warmup_factor"],
                    options["lrscheduler"],
                    warmup_mode=options["warmup_method"],
                    gamma=options["gamma"],
                    target_factor=options["target_lr"] / base,
                    power=options["power"],
                    milestones=options["milestones"],
                )
                for epoch in run["epochs"]
            ]
            assert found == pytest.approx(run[f"lr_group{group}"], rel=1e-9), run["overrides"]


def test_cosine_by_hand() -> None:
    assert [lr_factor(epoch, 60) for epoch in (0, 1, 5)] == pytest.approx([0.1, 0.28, 1.0])
    assert lr_factor(32.5, 60) == pytest.approx(0.5)  # half of the 55 epochs after the warm-up
    assert lr_factor(60, 60) == pytest.approx(0.0, abs=1e-12)
    assert lr_factor(59, 60) == pytest.approx(8.15448036932176e-09 / 1e-5)
    assert lr_factor(0, 10, warmup_epochs=0) == 1.0


def test_polynomial_falls_where_the_reference_poly_rises() -> None:
    falling = [lr_factor(epoch, 60, mode="polynomial") for epoch in range(5, 61)]
    rising = [lr_factor(epoch, 60, mode="poly") for epoch in range(5, 61)]
    assert falling == sorted(falling, reverse=True) and (falling[0], falling[-1]) == (1.0, 0.0)
    assert rising == sorted(rising) and (rising[0], rising[-1]) == (0.9, 1.0)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_stays_within_bounds_and_holds_after_the_end(mode: str) -> None:
    factors = [lr_factor(epoch, 20, 3, mode=mode, target_factor=0.05) for epoch in range(25)]
    assert all(0.0 <= factor <= 1.0 for factor in factors)
    assert factors[20] == factors[24]


def test_warm_up_longer_than_the_run_is_harmless() -> None:
    assert [lr_factor(epoch, 2, warmup_epochs=5) for epoch in range(2)] == pytest.approx([0.1, 0.28])
    assert lr_factor(5, 5, warmup_epochs=5) == 1.0


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(
        UsageError, match="'cosin' is not known; use one of cosine, linear, exp, poly, polynomial, step"
    ):
        lr_factor(0, 60, mode="cosin")
    with pytest.raises(UsageError, match="use one of linear, constant"):
        lr_factor(0, 60, warmup_mode="none")
