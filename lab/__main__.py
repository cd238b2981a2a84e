"""`python -m lab`: the same as the `gradlab` command."""

import runpy

if __name__ == "__main__":
    runpy.run_module("experiments.main", run_name="__main__", alter_sys=True)
