"""Everything that touches Spark or Delta: session, tables, the barrier stage and the queries around it."""
