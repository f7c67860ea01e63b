"""For gunicorn without `mcp-chat serve`: ``gunicorn -c config/gunicorn.py "mcp_chat.app:create_app()"``.

Address, workers and log level come from the same environment or ``.env`` as everything else. What you
assign below the import takes precedence.
"""

from mcp_chat.gunicorn_conf import *  # noqa: F403
