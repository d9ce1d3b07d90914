"""Around a run of pipelines: checks before it, its lock, what it skips, its records, how it ends and goes on."""
