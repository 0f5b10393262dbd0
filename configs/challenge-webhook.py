#!/usr/bin/env python3
"""Answers Muster's challenge webhook (docs/authz.md, challenge) with what Microsoft Intune says of a SCEP request.

    challenge-webhook.py --listen 127.0.0.1:8090 --secret secret --intune https://FABRIC.manage.microsoft.com/RACerts/StatelessScepRequestValidationService --token token

--intune is the URI of ScepRequestValidationFEService, which Microsoft Graph tells
(servicePrincipals/appId=0000000a-0000-0000-c000-000000000000/endpoints); --token a file with an access token for
https://api.manage.microsoft.com/, which is read for each request: have it renewed beside this. What stands in for Intune
in a test, or asks a service of your own, differs in ask() alone.
"""
import argparse
import hashlib
import hmac
import json
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MOST = 1 << 20  # bytes of a question or an answer


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args):
        return None  # the token is for one place


direct = urllib.request.build_opener(Stay)


def ask(question):
    """The answer to a question; an exception where there is none, so that Muster fails closed."""
    body = {"request": {
        "transactionId": question["transaction"],
        "certificateRequest": question["csr"],  # with the challenge in it, which Intune made and reads
        "callerInfo": "muster",
    }}
    with open(options.token, encoding="ascii") as f:
        token = f.read().strip()
    request = urllib.request.Request(options.intune.rstrip("/") + "/ScepActions/validateRequest", json.dumps(body).encode(), {
        "Authorization": "Bearer " + token, "Content-Type": "application/json", "api-version": "2018-02-20", "client-request-id": question["id"],
    })
    with direct.open(request, timeout=4) as response:
        said = json.loads(response.read(MOST))
    code = said["code"]
    if code == "Success":
        return {"allow": True, "reason": "Intune knows it"}
    return {"allow": False, "reason": "Intune says " + code}


class Webhook(BaseHTTPRequestHandler):
    timeout = 10  # seconds, for who connects and says nothing

    def do_POST(self):
        size = int(self.headers.get("Content-Length", "0"))
        if not 0 < size <= MOST:
            return self.send_error(413)
        body = self.rfile.read(size)
        signature = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(signature.encode(), self.headers.get("Muster-Signature", "").encode()):
            return self.send_error(401)
        try:
            answer = json.dumps(ask(json.loads(body))).encode()
        except Exception as e:  # of any kind: no answer is no answer
            print("no answer:", type(e).__name__, file=sys.stderr)
            return self.send_error(503)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass  # nothing of a request


parser = argparse.ArgumentParser()
for name in ("listen", "secret", "intune", "token"):
    parser.add_argument("--" + name, required=True)
options = parser.parse_args()
with open(options.secret, "rb") as f:
    secret = f.read().removesuffix(b"\n").removesuffix(b"\r")
if len(secret) < 16:
    parser.error("--secret: a file of at least 16 bytes, as the gateway has it")
host, port = options.listen.rsplit(":", 1)
server = ThreadingHTTPServer((host, int(port)), Webhook)
print("listening on http://%s:%d/" % server.server_address[:2], flush=True)
server.serve_forever()
