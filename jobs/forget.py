"""`lakefactor forget`, submitted: spark-submit jobs/forget.py --user ID [--dry-run] [--config FILE] [--set ...]."""

from lakefactor.cli import main_for

if __name__ == "__main__":
    main_for("forget")
