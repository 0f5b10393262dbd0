#!/usr/bin/env python3
"""A CA of `openssl ca` for Muster's backend exec: one program for all of its operations (docs/backends/exec.md).

    exec-openssl.py FOLDER init                 makes a CA in the folder, for trying out
    exec-openssl.py FOLDER OPERATION            issue, lookup, revoke, crl, ca: JSON on stdin and stdout

The folder has openssl.cnf, ca.pem, ca.key, and OpenSSL's index.txt and certs/. Exactly once: the serial number of a request is made of
its ID, and OpenSSL certifies a serial number once: what index.txt lists was issued, and what it does not list was not. One runs at a time,
under a lock; lookup waits for an issue that is under way.
"""
import base64, fcntl, hashlib, json, os, subprocess, sys
from datetime import datetime

CONFIG = """
[ca]
default_ca = main
[main]
dir = {dir}
database = $dir/index.txt
new_certs_dir = $dir/certs
serial = $dir/serial
crlnumber = $dir/crlnumber
certificate = $dir/ca.pem
private_key = $dir/ca.key
default_md = sha256
default_crl_days = 7
policy = anything
unique_subject = no
[anything]
commonName = optional
"""

# CRLReason (RFC 5280 section 5.3.1) as `openssl ca -crl_reason` names them.
REASONS = {1: "keyCompromise", 2: "CACompromise", 3: "affiliationChanged", 4: "superseded", 5: "cessationOfOperation"}


class Refused(Exception):
    def __init__(self, code, message):
        self.answer = {"refused": {"code": code, "message": message}}


def openssl(*args):
    """Runs OpenSSL. A failure ends this program with 1: Muster does not know then what happened, and asks lookup."""
    done = subprocess.run(["openssl", *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit("openssl %s: %s" % (args[0], done.stderr.decode(errors="replace")))
    return done.stdout


def write(name, text):
    with open(name + ".tmp", "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(name + ".tmp", name)


def serial_of(request_id):
    """20 bytes at most, positive (RFC 5280 section 4.1.2.2)."""
    return "4" + hashlib.sha256(request_id.encode()).hexdigest()[:31].upper()


def listed(serial):
    """The status of a serial number in index.txt: V valid, E expired, R revoked, None for one that was never issued."""
    with open("index.txt") as f:
        for line in f:
            fields = line.rstrip("\n").split("\t")
            if int(fields[3], 16) == int(serial, 16):
                return fields[0]
    return None


def pem(name):
    with open(name) as f:
        return f.read()


def issued(serial):
    return {"certificate": pem("certs/%s.pem" % serial)}


def issue(q):
    serial, template = serial_of(q["id"]), q["template"]
    if listed(serial):
        return issued(serial)
    if "csr" not in q:
        raise Refused("INVALID_ARGUMENT", "openssl ca wants a PKCS#10")
    write("request.pem", q["csr"])
    write("extensions.cnf", "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n" + "".join(
        "%s=%sDER:%s\n" % (e["id"], "critical," if e["critical"] else "", base64.b64decode(e["value"]).hex(":")) for e in template["extensions"]))
    write("serial", serial + "\n")
    moment = lambda text: datetime.fromisoformat(text.replace("Z", "+00:00")).strftime("%Y%m%d%H%M%SZ")
    openssl("ca", "-config", "openssl.cnf", "-batch", "-notext", "-preserveDN", "-in", "request.pem", "-out", "answer.pem",
            "-extfile", "extensions.cnf", "-startdate", moment(template["not_before"]), "-enddate", moment(template["not_after"]))
    return issued(serial)


def lookup(q):
    serial = serial_of(q["id"])
    return dict(issued(serial), state="issued") if listed(serial) else {"state": "never"}


def revoke(q):
    status = listed(q["serial"])
    if status is None:
        raise Refused("NOT_FOUND", "index.txt has no serial number " + q["serial"])
    if status != "R":
        reason = REASONS.get(q["reason"], "unspecified")
        openssl("ca", "-config", "openssl.cnf", "-revoke", "certs/%s.pem" % q["serial"], "-crl_reason", reason)
    return {"revoked": True}


def crl(q):
    openssl("ca", "-config", "openssl.cnf", "-gencrl", "-out", "crl.pem")
    return {"crl": pem("crl.pem")}


def ca(q):
    return {"cas": [{"name": "openssl", "chain": [pem("ca.pem")]}]}


def init():
    os.makedirs("certs", exist_ok=True)
    write("openssl.cnf", CONFIG.format(dir=os.getcwd()))
    for name, text in {"index.txt": "", "index.txt.attr": "unique_subject = no\n", "crlnumber": "01\n"}.items():
        write(name, text)
    os.umask(0o077)
    openssl("req", "-x509", "-newkey", "rsa:3072", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "3650", "-subj", "/O=Example/CN=Example OpenSSL CA",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    return {}


def main():
    folder, operation = sys.argv[1:]
    os.makedirs(folder, mode=0o700, exist_ok=True)
    os.chdir(folder)
    lock = open("lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    if operation == "init":
        return init()
    try:
        answer = {"issue": issue, "lookup": lookup, "revoke": revoke, "crl": crl, "ca": ca}[operation](json.load(sys.stdin))
    except Refused as e:
        answer = e.answer
    json.dump(answer, sys.stdout)


main()
