"""Parts of scripts/measure_styles.py: captions to measure on, and one module for each group of tables."""
