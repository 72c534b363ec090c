"""What a store holds, for people: a table on the terminal and one self-contained HTML page."""
