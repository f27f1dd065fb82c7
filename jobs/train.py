"""`lakefactor train`, submitted: spark-submit jobs/train.py [--config FILE] [--set section.key=value]."""

from lakefactor.cli import main_for

if __name__ == "__main__":
    main_for("train")
