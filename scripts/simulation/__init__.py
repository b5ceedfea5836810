"""The planner on pipelines and nodes that exist on paper only."""
