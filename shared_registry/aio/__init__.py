"""General asyncio helpers: a clock, backoff, supervised tasks, signals."""
