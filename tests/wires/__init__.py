"""Providers at the other end of the wire: one file for each protocol, and a server for all of them."""
