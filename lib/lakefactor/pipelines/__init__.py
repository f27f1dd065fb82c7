"""One use case a file: run(spark, config, ...) returns a record of what was done."""
