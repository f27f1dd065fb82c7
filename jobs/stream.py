"""`lakefactor stream`, submitted: spark-submit jobs/stream.py [--available-now] [--config FILE] [--set KEY=VALUE]."""

from lakefactor.cli import main_for

if __name__ == "__main__":
    main_for("stream")
