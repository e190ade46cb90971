"""Files through FastMCP's client, and resources through it and the official SDK, in both eras, over both transports."""

from __future__ import annotations

import asyncio
import base64
import urllib.request
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from fastmcp.exceptions import ToolError
from mcp.shared.exceptions import MCPError

if TYPE_CHECKING:
    from fastmcp import Client

    from support import Forkpy

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(params=["auto", "legacy"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result.data, dict)
    return result.data


async def files_of(client: Client) -> list[Any]:
    """The resources that are files: there are others."""
    return [resource for resource in await client.list_resources() if str(resource.uri).startswith("file:")]


async def test_files(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        written = await call(client, "write_file", path="a/b.txt", content="one\ntwo\nthree\n")
        assert (written["path"], written["size"]) == ("a/b.txt", 14)
        assert (await call(client, "read_file", path="a/b.txt"))["text"] == "one\ntwo\nthree\n"
        middle = await call(client, "read_file", path="a/b.txt", start_line=2, end_line=2)
        assert middle["text"] == "two\n"
        part = await call(client, "read_file", path="a/b.txt", max_bytes=5)
        assert (part["text"], part["next_offset"]) == ("one\nt", 5)
        encoded = base64.b64encode(b"\x00\xff").decode()
        await call(client, "write_file", path="raw", content=encoded, binary_base64=True)
        raw = await call(client, "read_file", path="raw")
        assert (raw["base64"], raw["binary"]) == (encoded, True)
        listed = await call(client, "list_files", recursive=True, include_dirs=False)
        assert listed["files"] == ["a/b.txt", "raw"]
        tree = await call(client, "list_files", path="a", tree=True)
        assert tree["tree"] == "a/\n└── b.txt"
        with pytest.raises(ToolError, match="recursive: true"):
            await client.call_tool("delete_file", {"path": "a"})
        deleted = await call(client, "delete_file", path="a", recursive=True)
        assert (deleted["deleted"], deleted["success"]) == (True, True)
        assert not (forkpy.workspace / "a").exists()


async def test_bad_input_to_files_is_refused_in_words(forkpy: Forkpy, mode: str) -> None:
    (forkpy.workspace / "link").symlink_to("/etc")
    async with forkpy.client(mode) as client:
        for tool, arguments, words in [
            ("read_file", {"path": "../x"}, "out of the workspace"),
            ("read_file", {"path": "/etc/passwd"}, "out of the workspace"),
            ("read_file", {"path": "link/passwd"}, "out of the workspace"),
            ("read_file", {"path": "scripts"}, "a directory"),
            ("read_file", {"path": "n" * 300}, "too long"),
            ("write_file", {"path": "x", "content": "?", "binary_base64": True}, "not base64"),
            ("write_file", {"path": "x", "content": "x", "encoding": "klingon"}, "unknown encoding"),
            ("delete_file", {"path": "."}, "never deleted"),
        ]:
            with pytest.raises(ToolError, match=words):
                await client.call_tool(tool, arguments)


async def test_a_picture_comes_as_an_image(forkpy: Forkpy, mode: str) -> None:
    (forkpy.workspace / "dot.png").write_bytes(PNG)
    async with forkpy.client(mode) as client:
        result = await client.call_tool("read_file", {"path": "dot.png"})
        images = [block for block in result.content if block.type == "image"]
        assert [(image.mime_type, base64.b64decode(image.data)) for image in images] == [("image/png", PNG)]
        [resource] = await files_of(client)
        [contents] = await client.read_resource(resource.uri)
        assert (contents.mime_type, base64.b64decode(contents.blob)) == ("image/png", PNG)


async def test_resources_are_listed_read_and_linked(forkpy: Forkpy, mode: str) -> None:
    async with forkpy.client(mode) as client:
        result = await client.call_tool("run_python_code", {"code": "open('made here.txt', 'w').write('by a cell')"})
        # This client is not known to open links.
        assert not [block for block in result.content if block.type == "resource_link"]
        [resource] = await files_of(client)
        assert str(resource.uri) == (forkpy.workspace / "made here.txt").resolve().as_uri()
        assert (resource.name, resource.size) == ("made here.txt", 9)
        [contents] = await client.read_resource(resource.uri)
        assert (contents.text, contents.mime_type) == ("by a cell", "text/plain")
        templates = [template.uri_template for template in await client.list_resource_templates()]
        assert templates[0] == f"{forkpy.workspace.resolve().as_uri()}/{{+path}}"
        with pytest.raises(MCPError, match=r"no resource|No such file"):
            await client.read_resource((forkpy.workspace / "nowhere").resolve().as_uri())


async def test_thousands_of_resources_come_in_pages(forkpy_http: Forkpy) -> None:
    (forkpy_http.workspace / "many").mkdir()
    for number in range(2300):
        (forkpy_http.workspace / "many" / f"{number:04}").touch()
    async with forkpy_http.client() as client:
        first = await client.list_resources_mcp()
        assert len(first.resources) == 1000
        names = [resource.name for resource in await files_of(client)]
        assert names == [f"many/{number:04}" for number in range(2300)]


async def test_changes_are_heard_on_a_stream(forkpy: Forkpy) -> None:
    """The official SDK's `listen`, 2026-07-28: over HTTP a stream that stays open beside other calls."""
    watched = (forkpy.workspace / "watched").resolve().as_uri()
    async with (
        forkpy.sdk_client() as client,
        client.listen(resources_list_changed=True, resource_subscriptions=[watched]) as events,
    ):
        assert events.honored.resource_subscriptions == [watched]
        await client.call_tool("write_file", {"path": "watched", "content": "x"})
        heard = set()
        async for event in events:
            heard.add(type(event).__name__)
            if len(heard) == 2:
                break
        assert len(heard) == 2, heard


async def test_changes_are_heard_by_a_connection(forkpy: Forkpy) -> None:
    """`resources/subscribe` of the versions before: notifications, over HTTP on the stream that the client opened."""
    watched = (forkpy.workspace / "watched").resolve().as_uri()
    updated: asyncio.Queue[str] = asyncio.Queue()

    async def note(message: Any) -> None:
        method = getattr(message, "method", "")
        if method == "notifications/resources/updated":
            updated.put_nowait(message.params.uri)

    async with forkpy.sdk_client("legacy", message_handler=note) as client:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            await client.subscribe_resource(watched)
        # Over HTTP the client opens its stream behind our back; what is told before it is there waits for it.
        await client.call_tool("write_file", {"path": "watched", "content": "x"})
        assert await asyncio.wait_for(updated.get(), 30) == watched


async def test_files_over_http(forkpy_http: Forkpy) -> None:
    base = forkpy_http.url.removesuffix("/mcp")
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="up.csv"\r\nContent-Type: text/csv\r\n\r\n'
        b"a,b\n1,2\n\r\n--b--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b"}

    def exchange() -> tuple[bytes, bytes, str]:
        request = urllib.request.Request(f"{base}/files/upload", body, headers)
        with urllib.request.urlopen(request) as answer:
            reply = answer.read()
        with urllib.request.urlopen(f"{base}/files/download/uploads/up.csv") as answer:
            return reply, answer.read(), answer.headers["Content-Type"]

    reply, content, kind = await asyncio.to_thread(exchange)
    assert b'"filename":"up.csv"' in reply
    assert (content, kind) == (b"a,b\n1,2\n", "text/csv; charset=utf-8")
    async with forkpy_http.client() as client:
        result = await call(client, "run_python_code", code="open('uploads/up.csv').read()")
        assert result["results"] == ["'a,b\\n1,2\\n'"]
