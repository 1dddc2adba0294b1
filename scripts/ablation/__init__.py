"""The parts of `scripts/ablation.py`: settings, rows, the graph of jobs, what each job does, statistics, tables, plots."""
