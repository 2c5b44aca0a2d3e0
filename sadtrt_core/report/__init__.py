"""Shows a run: tables in the terminal, summary.csv, one HTML file, Markdown."""
