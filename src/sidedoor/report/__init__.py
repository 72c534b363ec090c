"""Results of a store as a terminal table, a Markdown table and a self-contained HTML page."""
