"""What runs a stage in a process: used by workers, by InlineExecutor and by replay."""
