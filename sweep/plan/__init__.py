"""What a sweep will do and what it will cost, before it runs."""
