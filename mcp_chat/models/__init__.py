"""Models: what they are asked, the pieces in which they answer, and how each kind is reached."""
