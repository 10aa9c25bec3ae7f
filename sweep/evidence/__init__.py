"""What makes a result trustworthy: the best trial restored and evaluated again."""
