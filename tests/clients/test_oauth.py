"""The official Python SDK signs in by itself: it learns the issuer from the refusal, and asks for more scope."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import jwt
import mcp
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

import support
from support import Forkpy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest
    from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

GRANTED_AT_FIRST = "cells:run"


class Issuer(BaseHTTPRequestHandler):
    """An authorization server: metadata (RFC 8414), keys, and tokens for who knows a secret."""

    key = ec.generate_private_key(ec.SECP256R1())
    url = ""
    granted: list[str]
    resources: list[str]

    def do_GET(self) -> None:
        documents: dict[str, Any] = {
            "/.well-known/oauth-authorization-server": {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/keys",
                "response_types_supported": ["code"],
                "grant_types_supported": ["client_credentials"],
            },
            "/keys": {"keys": [{**json.loads(ECAlgorithm.to_jwk(self.key.public_key())), "kid": "k", "use": "sig"}]},
        }
        self.answer(documents.get(self.path))

    def do_POST(self) -> None:
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        # Less than was asked for, the first time.
        scope = asked["scope"][0] if self.granted else GRANTED_AT_FIRST
        self.granted.append(scope)
        self.resources += asked["resource"]
        now = int(time.time())
        claims = {"iss": self.url, "aud": asked["resource"][0], "sub": "robot", "scope": scope, "exp": now + 600}
        token = jwt.encode(claims, self.key, "ES256", {"kid": "k", "typ": "at+jwt"})
        self.answer({"access_token": token, "token_type": "Bearer", "expires_in": 600, "scope": scope})

    def answer(self, document: dict[str, Any] | None) -> None:
        body = json.dumps(document).encode()
        self.send_response(404 if document is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Storage:
    """Tokens, in memory."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


@contextlib.contextmanager
def issuer() -> Any:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Issuer)
    Issuer.url, Issuer.granted, Issuer.resources = f"http://127.0.0.1:{server.server_port}", [], []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Issuer
    finally:
        server.shutdown()
        server.server_close()


@contextlib.asynccontextmanager
async def signed_in(url: str, issuer_url: str) -> AsyncIterator[mcp.Client]:
    auth = ClientCredentialsOAuthProvider(url, Storage(), "robot", "secret", issuer=issuer_url)
    async with (
        create_mcp_http_client(auth=auth) as http,
        mcp.Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield client


async def test_the_sdk_signs_in_and_asks_for_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = support.free_port()
    monkeypatch.setattr(support, "free_port", lambda: port)
    url = f"http://127.0.0.1:{port}/mcp"
    with issuer() as served:
        options = ("--oauth-issuer", served.url, "--oauth-audience", url)
        with Forkpy("http", tmp_path, *options) as forkpy:
            async with signed_in(forkpy.url, served.url) as client:
                ran = await client.call_tool("run_python_code", {"code": "x = 42; x"})
                assert ran.structured_content is not None
                assert ran.structured_content["results"] == ["42"]
                assert served.granted == [GRANTED_AT_FIRST]
                # Its token is not for files: it is told so, and gets one that is.
                written = await client.call_tool("write_file", {"path": "a.txt", "content": "1"})
                assert written.is_error is not True, written
            assert len(served.granted) == 2
            assert {"cells:run", "files:write"} <= set(served.granted[-1].split())
            # Whoever has a token of the same subject finds its session again.
            async with signed_in(forkpy.url, served.url) as client:
                again = await client.call_tool("run_python_code", {"code": "x"})
                assert again.structured_content is not None
                assert again.structured_content["results"] == ["42"]
            assert set(served.resources) == {url}
