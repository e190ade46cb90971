#!/usr/bin/env python3
"""The picture in README: a session that comes back from a segfault.

    tests/clients/picture.py FORKPY            plays the run on a terminal, against that binary
    tests/clients/picture.py FORKPY FILE.svg   records it on a pseudo-terminal, and draws what was on the screen

Plain Python, no packages. A test draws it again and compares the words.
"""

import json
import os
import pty
import re
import subprocess
import sys
import tempfile
import time
from html import escape
from pathlib import Path

COLUMNS = 104
CALLS = [
    ("run_python_code", {"code": "rows = [line.split(',') for line in open('cities.csv')]\nlen(rows)"}),
    ("run_python_code", {"code": "import ctypes; ctypes.string_at(0)    # a bug in native code"}),
    ("run_python_code", {"code": "len(rows), rows[1]"}),
]
CITIES = "city,people\nOslo,717710\nAccra,284124\n"


class Server:
    """forkpy, as a client starts it."""

    def __init__(self, program, workspace):
        command = [program, "--workspace", workspace, "--log", "off", "--python", sys.executable]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.count = 0
        hello = {"name": "picture", "version": "1"}
        self.ask("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": hello})
        self.say({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def say(self, message):
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def ask(self, method, params):
        self.count += 1
        self.say({"jsonrpc": "2.0", "id": self.count, "method": method, "params": params})
        while True:
            answer = json.loads(self.process.stdout.readline())
            if answer.get("id") == self.count:
                return answer["result"]

    def call(self, tool, arguments):
        return self.ask("tools/call", {"name": tool, "arguments": arguments})

    def end(self):
        self.process.stdin.close()
        self.process.wait(30)


def play(program):
    """Prints the calls, and the replies as a model reads them."""
    with tempfile.TemporaryDirectory() as workspace:
        Path(workspace, "cities.csv").write_text(CITIES)
        server = Server(program, workspace)
        try:
            for tool, arguments in CALLS:
                code = arguments["code"].split("\n")
                print(f"\x1b[36m▸ {tool}\x1b[0m")
                for line in code:
                    print(f"\x1b[1m    {line}\x1b[0m")
                reply = server.call(tool, arguments)
                texts = [block["text"] for block in reply["content"] if block["type"] == "text"]
                for line in "\n".join(texts).split("\n"):
                    print(f"  {line}")
                print(flush=True)
                patience = time.monotonic() + 60
                while (
                    time.monotonic() < patience
                    and not server.call("list_checkpoints", {})["structuredContent"]["checkpoints"]
                ):
                    time.sleep(0.05)
        finally:
            server.end()


def record(program):
    """What is on the screen when it is played on a terminal."""
    main, side = pty.openpty()
    player = subprocess.Popen([sys.executable, __file__, program], stdin=side, stdout=side, close_fds=True)
    os.close(side)
    shown = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    if player.wait() != 0:
        sys.exit("the run did not come to its end:\n" + shown.decode(errors="replace"))
    return shown.decode().replace("\r", "")


def steady(text):
    """Without what differs from run to run: addresses, times, processes."""
    text = re.sub(r"0x[0-9a-f]{6,}", "0x…", text)
    text = re.sub(r"\b\d+([.]\d+)? ?(µs|ms|s)\b", "… ms", text)
    text = re.sub(r"crash-[\w.-]+", "crash-….json", text)
    return re.sub(r"\b(pid|process) \d+", r"\1 …", text)


def wrapped(line):
    """Pieces of (style, text) in rows of the terminal's width."""
    style, rows, row, width = "", [], [], 0
    for piece in re.split(r"(\x1b\[\d*m)", line):
        found = re.fullmatch(r"\x1b\[(\d*)m", piece)
        if found:
            style = {"36": "call", "1": "code"}.get(found[1], "")
            continue
        while piece:
            part, piece = piece[: COLUMNS - width], piece[COLUMNS - width :]
            row.append((style, part))
            width += len(part)
            if width == COLUMNS:
                rows.append(row)
                row, width = [], 0
    return [*rows, row] if row or not rows else rows


def draw(text):
    rows = [row for line in text.rstrip("\n").split("\n") for row in wrapped(line)]
    height, width = 20 * len(rows) + 56, COLUMNS * 8 + 40
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="forkpy">',
        "<style>text { font: 13.2px ui-monospace, Menlo, Consolas, monospace; fill: #c9d1d9; white-space: pre; }",
        ".call { fill: #56d4dd; } .code { fill: #ffffff; font-weight: bold; }</style>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#161b22"/>',
        *(
            f'<circle cx="{20 + 20 * n}" cy="18" r="6" fill="{c}"/>'
            for n, c in enumerate(["#ff5f56", "#ffbd2e", "#27c93f"])
        ),
    ]
    for number, row in enumerate(rows):
        spans = "".join(
            f'<tspan class="{style}">{escape(part)}</tspan>' if style else escape(part) for style, part in row
        )
        lines.append(f'<text x="20" y="{52 + 20 * number}" xml:space="preserve">{spans}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    if len(sys.argv) == 2:
        play(sys.argv[1])
    elif len(sys.argv) == 3:
        Path(sys.argv[2]).write_text(draw(steady(record(sys.argv[1]))), "utf-8")
    else:
        sys.exit(__doc__)
