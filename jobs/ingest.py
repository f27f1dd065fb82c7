"""`lakefactor ingest`, submitted: spark-submit jobs/ingest.py PATH... [--config FILE] [--set section.key=value]."""

from lakefactor.cli import main_for

if __name__ == "__main__":
    main_for("ingest")
