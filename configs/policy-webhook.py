#!/usr/bin/env python3
"""Answers Muster's stage `webhook` (docs/authz.md, webhook) from a table of devices.

    policy-webhook.py --listen 127.0.0.1:8091 --secret webhook-secret --devices policy-devices.csv

The table is a CSV, which is read for each question: `name` is what an earlier stage named the device, or its commonName;
`decision` is allow, deny or hold; `message` is told to a device that is denied, `reason` to you by `muster explain`;
`profile` and `notAfter` may be left empty. Every further column is an attribute. Who is not in the table is denied.

--secret is the file that the stage has as `secret-file`: questions have to be signed with it, and answers are (`signed-answers:
true`). Behind anything but a loopback address, put TLS in front, or give --cert and --key. For rules of your own change decide().
"""
import argparse
import csv
import hashlib
import hmac
import json
import ssl
import sys
import time
from calendar import timegm
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MOST = 1 << 20  # bytes of a question
AGE = 300  # seconds that our clock and the gateway's may differ: an older question is somebody's recording


def decide(question):
    """The answer to a question; an exception where there is none, so that Muster fails closed."""
    request = question["request"]
    name = question.get("device", {}).get("name") or request.get("subject", {}).get("commonName", "")
    with open(options.devices, encoding="utf-8", newline="") as f:
        rows = [row for row in csv.DictReader(f) if name and row["name"] == name]
    if not rows:
        return {"decision": "deny", "reason": "%r is not in the table" % name[:64]}
    row = {key: value for key, value in rows[0].items() if value}
    answer = {"decision": row.pop("decision")}
    row.pop("name")
    for key in ("reason", "message", "profile", "notAfter"):
        value = row.pop(key, "")
        if value and (key in ("reason", "message") or request["operation"] in ("enroll", "renew", "rekey")):
            answer[key] = value
    if row:
        answer["attributes"] = row
    return answer


def sign(*parts):
    return "sha256=" + hmac.new(secret, b"".join(parts), hashlib.sha256).hexdigest()


class Webhook(BaseHTTPRequestHandler):
    timeout = 10  # seconds, for who connects and says nothing

    def do_POST(self):
        size = int(self.headers.get("Content-Length", "0"))
        if not 0 < size <= MOST:
            return self.send_error(413)
        body = self.rfile.read(size)
        signature = self.headers.get("Muster-Signature", "").encode()
        if not hmac.compare_digest(sign(body).encode(), signature):
            return self.send_error(401)
        try:
            question = json.loads(body)
            asked = timegm(time.strptime(question["now"][:19], "%Y-%m-%dT%H:%M:%S"))
            if abs(time.time() - asked) > AGE:
                return self.send_error(401)
            answer = json.dumps(decide(question)).encode()
        except Exception as e:  # of any kind: no answer is no answer
            print("no answer:", type(e).__name__, e, file=sys.stderr)
            return self.send_error(503)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("Muster-Signature", sign(signature, b".", answer))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass  # nothing of a request


parser = argparse.ArgumentParser()
for option in ("listen", "secret", "devices"):
    parser.add_argument("--" + option, required=True)
for option in ("cert", "key"):
    parser.add_argument("--" + option)
options = parser.parse_args()
with open(options.secret, "rb") as f:
    secret = f.read().removesuffix(b"\n").removesuffix(b"\r")
if len(secret) < 16:
    parser.error("--secret: a file of at least 16 bytes, as the gateway has it")
host, port = options.listen.rsplit(":", 1)
server = ThreadingHTTPServer((host, int(port)), Webhook)
scheme = "http"
if options.cert:
    scheme, context = "https", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.cert, options.key)
    # Handshakes are for each connection's own thread, so that one who never ends his keeps nobody waiting.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print("listening on %s://%s:%d/" % ((scheme,) + server.server_address[:2]), flush=True)
server.serve_forever()
