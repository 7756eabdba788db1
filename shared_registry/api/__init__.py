"""A router's admin address: its pages for operators and programs, apart from the clients' port."""
