"""Jobs: what the shell and the pipelines run."""
