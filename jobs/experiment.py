"""`lakefactor experiment`, submitted: spark-submit jobs/experiment.py ACTION NAME [PATH...] [--config FILE]."""

from lakefactor.cli import main_for

if __name__ == "__main__":
    main_for("experiment")
