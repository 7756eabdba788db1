"""All that knows Redis: clients, keys, commands, the codec, deadlines."""
