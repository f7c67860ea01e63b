"""What it takes to try the chat without an account anywhere: a model made of rules, a server of toys."""
