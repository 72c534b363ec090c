"""From a specification to a record: spec, run, sweep, store."""
