"""The parts of `scripts/ablation.py`: settings, rows, jobs, statistics, tables, plots."""
