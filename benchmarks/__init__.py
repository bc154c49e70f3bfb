"""Programs that measure. Each prints what it found: `python -m benchmarks.NAME --help`."""
