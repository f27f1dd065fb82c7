"""`lakefactor maintain`, submitted: spark-submit jobs/maintain.py [--dry-run] [--config FILE] [--set KEY=VALUE]."""

from lakefactor.cli import main_for

if __name__ == "__main__":
    main_for("maintain")
