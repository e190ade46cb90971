"""Servers of the world outside: one that sessions may reach, by HTTP and by HTTPS, and one that they may not.

Runs in: a process of its own, beside the server under test; ends with its standard input. Says its ports in its first
line, and writes every request that arrives as one line of JSON into the file that its argument names.
Arguments: certificate with key, log, directory that is served below /files/.
"""

import http.server
import json
import os
import ssl
import sys
import threading

PEM, LOG, FILES = sys.argv[1:4]
lock = threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def note(self, body):
        line = {
            "server": self.server.name, "line": self.requestline, "headers": [list(pair) for pair in self.headers.items()],
            "body": body.decode("latin-1"),
        }  # fmt: skip
        with lock, open(LOG, "a") as file:
            file.write(json.dumps(line) + "\n")

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while (size := int(self.rfile.readline().split(b";")[0], 16)) != 0:
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self):
        self.note(self.body())
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", "http://" + self.path[4:])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        found, kind = b"treasure of " + self.server.name.encode(), "text/plain"
        if self.path.startswith("/files/"):
            path = os.path.join(FILES, self.path[7:])
            path = os.path.join(path, "index.html") if os.path.isdir(path) else path
            kind = "text/html" if path.endswith(".html") else "application/octet-stream"
            with open(path, "rb") as file:
                found = file.read()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        self.wfile.write(found)

    do_POST = do_GET

    def log_message(self, *args):
        pass


def server(name, secure=False):
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.name = name
    made.daemon_threads = True
    if secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(PEM)
        made.socket = context.wrap_socket(made.socket, server_side=True)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    return made.server_address[1]


print(
    json.dumps(
        {
            "open": server("open"),
            "secure": server("secure", True),
            "closed": server("closed"),
        }
    ),
    flush=True,
)
sys.stdin.read()
