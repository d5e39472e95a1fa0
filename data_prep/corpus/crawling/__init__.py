"""What a polite crawler needs: addresses it may reach, rules it obeys, time it waits, and a memory that survives a kill."""
