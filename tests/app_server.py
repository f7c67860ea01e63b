"""A real MCP server with apps: a good one, a hostile one, and one that floods."""

from __future__ import annotations

from pathlib import Path

from mcp.server import MCPServer
from mcp.server.apps import Apps, ResourceCsp, client_supports_apps
from mcp.server.mcpserver import Context
from mcp_types import CallToolResult, TextContent

FOLDER = Path(__file__).with_name("toy_apps")


def _page(name: str, **values: str) -> str:
    """Return an app's page, with what it speaks with and what else it needs in it."""
    page = (FOLDER / f"{name}.html").read_text()
    for word, text in {"RPC": (FOLDER / "rpc.js").read_text(), **values}.items():
        page = page.replace(word, text)
    return page


def app_server() -> MCPServer:
    """Make the server."""
    apps = Apps()
    total = 0

    @apps.tool(resource_uri="ui://toys/counter", name="count", description="Show a counter.")
    def count(start: int, ctx: Context) -> CallToolResult:
        nonlocal total
        total = start
        shown = f"apps: {client_supports_apps(ctx)}, total: {total}"
        return CallToolResult(content=[TextContent(text=shown)], structured_content={"total": total})

    @apps.tool(resource_uri="ui://toys/counter", visibility=["app"], name="more", description="Count on.")
    def more(by: int) -> CallToolResult:
        nonlocal total
        total += by
        return CallToolResult(content=[TextContent(text=str(total))], structured_content={"total": total})

    @apps.tool(
        resource_uri="ui://toys/counter", visibility=["model"], name="for_the_model", description="A secret."
    )
    def for_the_model() -> str:
        return "not for apps"

    @apps.tool(resource_uri="ui://toys/hostile", name="attack", description="Show a hostile app.")
    def attack() -> str:
        return "attacked"

    for way, window in (("up", "parent"), ("top", "top")):
        apps.tool(resource_uri=f"ui://toys/flood-{way}", name=f"flood_{way}", description="Show a flood.")(
            lambda: "x"
        )
        apps.add_html_resource(f"ui://toys/flood-{way}", _page("flood", WINDOW=window))

    @apps.tool(resource_uri="ui://toys/large", name="large", description="Show what is too large.")
    def large() -> str:
        return "large"

    csp = ResourceCsp(
        connect_domains=[
            "https://api.example.org",
            "wss://live.example.org",
            "http://plain.example.org",
            "*",
        ],
        resource_domains=[
            "https://*.cdn.example.org",
            "https://127.0.0.1",
            "https://x.example; script-src *",
        ],
    )
    apps.add_html_resource("ui://toys/counter", _page("counter"), csp=csp, prefers_border=False)
    apps.add_html_resource("ui://toys/hostile", _page("hostile"))
    apps.add_html_resource("ui://toys/large", "x" * 100_000)
    server = MCPServer("toys", extensions=[apps])
    server.resource("note://one", name="one", mime_type="text/plain")(lambda: "a note")
    server.add_tool(lambda: "plain", name="plain", description="No app.")
    return server
