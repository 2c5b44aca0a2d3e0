"""What a run found, in a versioned file, and what is made from it: tables, report, gate."""
