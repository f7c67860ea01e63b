"""The doors: HTTP dialects over the same commands and events."""
