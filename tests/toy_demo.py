"""Stands in for the demo MCP server: accepts connections."""

from __future__ import annotations

import argparse
import socketserver

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    with socketserver.TCPServer((options.host, options.port), socketserver.BaseRequestHandler) as server:
        server.serve_forever()
