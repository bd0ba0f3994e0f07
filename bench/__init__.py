"""The microbenchmarks: `python -m bench`. A suite is a file with `cases(scale) -> Case ...`; see
`_case.py`."""
