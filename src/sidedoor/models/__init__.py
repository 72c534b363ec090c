"""Networks: one family per file, named as its builder."""
