"""What the evaluator makes of each stage of defence."""
