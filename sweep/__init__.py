"""The search over trials: space, searcher, scheduler, record, and the commands."""
