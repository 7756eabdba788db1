"""What asyncio code everywhere needs: a clock, backoff, supervised tasks, signals."""
