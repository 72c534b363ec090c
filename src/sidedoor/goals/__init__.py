"""Goals of attackers: what a triggered input should lead to; one per file."""
