"""Pictures and pages from a run's files."""
