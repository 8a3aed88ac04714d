"""A small schema registry, run as a process of its own; prints its port.

    POST /subjects/NAME/versions  {"schema": "..."}   ->  {"id": 1}
    GET  /schemas/ids/1                               ->  {"schema": "..."}

With the argument `user:password` it wants basic authentication.
"""

from __future__ import annotations

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

SCHEMAS: list[dict[str, Any]] = []
WANTED = sys.argv[1] if len(sys.argv) > 1 else None


class Registry(BaseHTTPRequestHandler):
    def answer(self, code: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        SCHEMAS.append(body)
        self.answer(200, {"id": len(SCHEMAS)})

    def do_GET(self) -> None:
        if WANTED is not None:
            token = base64.b64encode(WANTED.encode()).decode()
            if self.headers.get("Authorization") != f"Basic {token}":
                return self.answer(401, {"error_code": 401})
        number = int(self.path.rpartition("/")[2])
        if not self.path.startswith("/schemas/ids/") or not 1 <= number <= len(SCHEMAS):
            return self.answer(404, {"error_code": 40403})
        return self.answer(200, SCHEMAS[number - 1])

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", 0), Registry)
    print(server.server_port, flush=True)
    server.serve_forever()
