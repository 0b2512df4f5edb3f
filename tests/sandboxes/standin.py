"""Stands in for the services that MCP servers ask: answers TLS on loopback, by host name.

usage: standin.py CERTIFICATE KEY ASKED
Writes `HOST METHOD PATH` of each request to the file ASKED.
"""

import http.server
import json
import ssl
import sys

CERTIFICATE, KEY, ASKED = sys.argv[1:]

ANSWERS = {
    ("api.tavily.com", "/search"): {
        "query": "sandboxes",
        "results": [{"title": "A sandbox", "url": "https://example.org/", "content": "sand", "score": 1}],
    },
    ("restapi.amap.com", "/v3/geocode/geo"): {
        "status": "1",
        "geocodes": [{"country": "somewhere", "location": "116.48,39.99", "level": "city"}],
    },
    ("antv-studio.alipay.com", "/api/gpt-vis"): {
        "success": True,
        "resultObj": "https://example.org/chart.png",
    },
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        host, path = self.headers["host"].split(":")[0], self.path.split("?")[0]
        with open(ASKED, "a") as asked:
            asked.write(f"{host} {self.command} {self.path} {self.headers.get('authorization')}\n")
        known = ANSWERS.get((host, path))
        body = json.dumps(known or {"error": f"{host}{path} is not known"}).encode()
        self.send_response(200 if known else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
