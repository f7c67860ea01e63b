"""Where state lives: protocols, their in-memory twin, Redis or Valkey, and SQL."""
