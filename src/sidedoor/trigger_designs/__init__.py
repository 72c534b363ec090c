"""How attackers arrive at a trigger; one design a file."""
