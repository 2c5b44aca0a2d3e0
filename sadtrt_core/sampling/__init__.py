"""What sampling a volume costs by itself, by each way there is: shapes, contestants, times and their table."""
