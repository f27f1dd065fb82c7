"""`lakefactor gate`, submitted: spark-submit jobs/gate.py [--config FILE] [--set section.key=value]."""

from lakefactor.cli import main_for

if __name__ == "__main__":
    main_for("gate")
