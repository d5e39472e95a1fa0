"""The one transformer of every family, and its weights under other names."""
