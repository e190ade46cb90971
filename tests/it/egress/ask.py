"""What a session tries at the proxy, byte by byte.

Runs in: a session under test; the test writes this file into the workspace.
"""

import os
import socket

proxy = os.environ["HTTP_PROXY"].removeprefix("http://").rsplit(":", 1)


def first_line(raw):
    """Send these bytes; the first line that comes back, or how the connection ended."""
    with socket.create_connection((proxy[0], int(proxy[1])), timeout=60) as connection:
        connection.sendall(raw)
        got = b""
        try:
            while b"\r\n" not in got and (part := connection.recv(65536)):
                got += part
        except ConnectionResetError:
            pass
        return got.split(b"\r\n")[0].decode() or "closed"


def whole(raw):
    """Send these bytes; all that comes back."""
    with socket.create_connection((proxy[0], int(proxy[1])), timeout=60) as connection:
        connection.sendall(raw)
        got = b""
        try:
            while part := connection.recv(65536):
                got += part
        except ConnectionResetError:
            pass
        return got.decode("latin-1")
