"""What `sadtrt` can be asked to do; cli.py gathers it. Heavy imports wait until a command runs."""
