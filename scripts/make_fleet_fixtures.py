"""Makes tests/data/fleet: certificates for a server on loopback, and an operator with accounts and users of nats-server.

    make_fleet_fixtures.py [DIRECTORY]      needs the package cryptography

The keys are for tests alone and protect nothing. JWTs are as NATS has them (version 2, ed25519-nkey); the users' rights are
those of docs/fleet.md.
"""

import base64
import datetime
import hashlib
import ipaddress
import json
import pathlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

START = datetime.datetime(2025, 1, 1)
DAYS = 36_500
SEED, OPERATOR, ACCOUNT, USER = 18 << 3, 14 << 3, 0, 20 << 3
PEM = serialization.Encoding.PEM
RAW = serialization.Encoding.Raw
PERMISSIONS = {
    "device": {
        "pub": ["JETSPOOL.answers.>", "JETSPOOL.dead.>", "$O.JETSPOOL_answers.>", "$O.JETSPOOL_jobs.>",
                "$KV.JETSPOOL_devices.>", "$JS.API.>", "$JS.ACK.>", "$JS.FC.>"],
        "sub": ["_INBOX.>"],
    },
    "producer": {
        "pub": ["JETSPOOL.jobs.>", "$O.JETSPOOL_jobs.>", "$O.JETSPOOL_adapters.>", "$JS.API.>", "$JS.FC.>"],
        "sub": ["JETSPOOL.answers.>", "_INBOX.>"],
    },
}


def crc16(data):
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc.to_bytes(2, "little")


class Key:
    """An nkey."""

    def __init__(self, kind, name):
        # The same at every run.
        seed = hashlib.sha256(f"jetspool test {name}".encode()).digest()
        self.private = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
        public = self.private.public_key().public_bytes(RAW, serialization.PublicFormat.Raw)
        self.public = self.encode(bytes([kind]) + public)
        self.seed = self.encode(bytes([SEED | kind >> 5, (kind & 31) << 3]) + seed)

    @staticmethod
    def encode(data):
        return base64.b32encode(data + crc16(data)).decode().rstrip("=")


def token(issuer, subject, name, kind, claims):
    def part(data):
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    body = {"iat": int(START.timestamp()), "iss": issuer.public, "name": name, "sub": subject.public,
            "nats": {**claims, "type": kind, "version": 2}}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()
    body["jti"] = base64.b32encode(digest).decode().rstrip("=")
    text = part(b'{"typ":"JWT","alg":"ed25519-nkey"}') + "." + part(json.dumps(body).encode())
    return text + "." + part(issuer.private.sign(text.encode()))


def credentials(jwt, key):
    return (f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{key.seed}\n------END USER NKEY SEED------\n")


def accounts(folder):
    operator, system, fleet = Key(OPERATOR, "operator"), Key(ACCOUNT, "system"), Key(ACCOUNT, "fleet")
    limits = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": True, "conn": -1,
              "leaf": -1}
    storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    resolver = {
        system.public: token(operator, system, "system", "account", {"limits": limits}),
        fleet.public: token(operator, fleet, "fleet", "account", {"limits": {**limits, **storage}}),
    }
    lines = "".join(f"    {name}: {jwt}\n" for name, jwt in resolver.items())
    own = token(operator, operator, "operator", "operator", {"system_account": system.public})
    (folder / "accounts.conf").write_text(
        f"operator: {own}\nsystem_account: {system.public}\nresolver: MEMORY\nresolver_preload: {{\n{lines}}}\n")
    for name in ["admin", *PERMISSIONS]:
        key = Key(USER, name)
        claims = {"subs": -1, "data": -1, "payload": -1}
        if name in PERMISSIONS:
            claims.update({way: {"allow": subjects} for way, subjects in PERMISSIONS[name].items()})
        (folder / f"{name}.creds").write_text(credentials(token(fleet, key, name, "user", claims), key))


def certificates(folder):
    def name(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def builder(subject, key):
        end = START + datetime.timedelta(days=DAYS)
        made = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name("jetspool test"))
        made = made.public_key(key.public_key()).serial_number(x509.random_serial_number())
        return made.not_valid_before(START).not_valid_after(end)

    def write_key(key, file):
        file.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))

    own = ec.generate_private_key(ec.SECP256R1())
    authority = builder("jetspool test", own).add_extension(x509.BasicConstraints(True, None), critical=True)
    (folder / "ca.pem").write_bytes(authority.sign(own, hashes.SHA256()).public_bytes(PEM))
    uses = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
    for subject, use in uses.items():
        key = ec.generate_private_key(ec.SECP256R1())
        made = builder(subject, key).add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        (folder / f"{subject}.pem").write_bytes(made.sign(own, hashes.SHA256()).public_bytes(PEM))
        write_key(key, folder / f"{subject}.key")


if __name__ == "__main__":
    place = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/fleet")
    place.mkdir(parents=True, exist_ok=True)
    accounts(place)
    certificates(place)
