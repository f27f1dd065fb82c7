"""`lakefactor explain`, submitted: spark-submit jobs/explain.py [--config FILE] [--set section.key=value]."""

from lakefactor.cli import main_for

if __name__ == "__main__":
    main_for("explain")
