"""All code that talks to Redis: clients, keys, commands, the codec, deadlines."""
