"""What sampling a volume costs by itself, by each way there is: shapes, methods, times and their table."""
