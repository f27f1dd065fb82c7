"""`lakefactor tune`, submitted: spark-submit jobs/tune.py [--config FILE] [--set section.key=value]."""

from lakefactor.cli import main_for

if __name__ == "__main__":
    main_for("tune")
