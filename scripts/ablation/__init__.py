"""The parts of `scripts/ablation.py`: settings, rows, tasks, steps, statistics, tables, plots."""
