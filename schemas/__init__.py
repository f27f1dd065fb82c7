"""Table contracts as YAML, one file per Delta table; read by ``lakefactor.contracts``. Data only, no code."""
