#!/usr/bin/env python3
"""A peer that speaks GM/T 0022, written from the protocol's facts and not from caponier.

It reads one JSON object with its settings from the first line of standard input, and
then datagrams as frames: a length of four octets, one octet that is 0 for port 500
and 1 for port 4500, and the octets. It writes datagrams to standard output in the
same way, and what happens as JSON lines to standard error.

Settings, with their defaults:

  role          responder    responder | initiator
  sign_cert, sign_key, encrypt_cert, encrypt_key   PEM files
  address, peer_address      as NAT-D hashes them
  minor         1            of the version octet
  ike_sm4       129          number of SM4 in phase 1
  esp_sm4       127          ESP transform
  esp           cbc          cbc | gcm | ah
  key_length    false        send Key-Length attributes
  envelope      der          der | c1c3c2 | c1c2c3
  signature     der          der | raw
  prehash       none         none | bare | message
  bare_cert     false        the signature covers the certificate without its encoding octet
  id_from       encryption   encryption | signature
  quick_hash    standard     standard | bodies | rfc
  strict        false        refuse every variant but these
  nat           none         none | sm3 | sha1: NAT-D payloads, and by which hash
  behind_nat    false        pretend to be behind one
  mode          tunnel       tunnel | transport
  local, remote              networks, as ["10.2.0.0", "255.255.0.0"]
  commit        false        set the commit bit, and send CONNECTED
  forge         ""           what to get wrong: see forge()
  script        []           what to do once there is an IPsec SA: see Peer.act
  udp           false        speak on the ports 500 and 4500 of address, and not in frames
  icv           32           octets of the ICV of ESP
  ping          null         source and destination of the echo requests of the script's "ping"
"""

import hmac
import ipaddress
import json
import os
import select
import socket
import struct
import sys
import time

import gmcrypto as g

SA, KE, ID, CERT, HASH, SIG, NONCE, N, D, VID, NATD, SK = 1, 4, 5, 6, 8, 9, 10, 11, 12, 13, 20, 128
MAIN, INFO, QUICK = 2, 5, 32
DPD_VID = bytes.fromhex("afcad71368a1f1c96b8696fc77570100")
NATT_VID = bytes.fromhex("4a131c81070358455c5728f20e95452f")
R_U_THERE, R_U_THERE_ACK, INITIAL_CONTACT, CONNECTED = 36136, 36137, 24578, 16384


class Refused(Exception):
    pass


def log(event, **values):
    sys.stderr.write(json.dumps({"event": event, **{k: v.hex() if isinstance(v, bytes) else v for k, v in values.items()}}) + "\n")
    sys.stderr.flush()


# ---- codec ----


def chain(payloads):
    """Payloads, each (type, body), with generic headers."""
    out = b""
    for i, (_, body) in enumerate(payloads):
        following = payloads[i + 1][0] if i + 1 < len(payloads) else 0
        out += struct.pack(">BBH", following, 0, 4 + len(body)) + body
    return out


def unchain(first, b):
    """Returns [(type, body, whole)] and what follows the last payload."""
    out = []
    while first:
        following, zero, n = struct.unpack(">BBH", b[:4])
        if n < 4 or n > len(b) or zero:
            raise Refused("malformed payload %d" % first)
        out.append((first, b[4:n], b[:n]))
        first, b = following, b[n:]
    return out, b


def bodies(payloads, kind):
    return [p[1] for p in payloads if p[0] == kind]


def attr(kind, value):
    if value < 65536:
        return struct.pack(">HH", 0x8000 | kind, value)
    return struct.pack(">HHI", kind, 4, value)


def attrs(b):
    out = []
    while b:
        kind, value = struct.unpack(">HH", b[:4])
        b = b[4:]
        if kind & 0x8000:
            out.append((kind & 0x7FFF, value))
        else:
            out.append((kind, int.from_bytes(b[:value], "big")))
            b = b[value:]
    return out


def sa_body(protocol, spi, transforms):
    ts = b""
    for i, (number, ident, attributes) in enumerate(transforms):
        ts += struct.pack(">BBHBBH", 3 if i + 1 < len(transforms) else 0, 0, 8 + len(attributes), number, ident, 0) + attributes
    p = struct.pack(">BBHBBBB", 0, 0, 8 + len(spi) + len(ts), 1, protocol, len(spi), len(transforms)) + spi + ts
    return struct.pack(">II", 1, 1) + p


def sa_parse(b):
    """Returns [(protocol, spi, [(number, id, attributes, raw attributes)])]."""
    if struct.unpack(">II", b[:8]) != (1, 1):
        raise Refused("DOI or situation")
    b, out = b[8:], []
    while b:
        _, _, n, _, protocol, spi_len, count = struct.unpack(">BBHBBBB", b[:8])
        spi, ts, transforms = b[8 : 8 + spi_len], b[8 + spi_len : n], []
        for _ in range(count):
            _, _, m, number, ident, _ = struct.unpack(">BBHBBH", ts[:8])
            transforms.append((number, ident, attrs(ts[8:m]), ts[8:m]))
            ts = ts[m:]
        out.append((protocol, spi, transforms))
        b = b[n:]
    return out


class Phase1:
    def __init__(self, peer, initiator, cky_i, cky_r):
        self.p, self.initiator, self.cky_i, self.cky_r = peer, initiator, cky_i, cky_r
        self.stage = 1
        self.minor = peer.s["minor"]
        self.quicks = {}
        self.last_in = self.last_out = None
        self.nat_seen = False
        self.port = 0
        self.up = False

    def cookies(self):
        return self.cky_i + self.cky_r


class Peer:
    def __init__(self, settings):
        self.s = {
            "role": "responder", "minor": 1, "ike_sm4": 129, "esp_sm4": 127, "esp": "cbc", "key_length": False, "envelope": "der", "signature": "der",
            "prehash": "none", "bare_cert": False, "id_from": "encryption", "quick_hash": "standard", "strict": False, "nat": "none",
            "behind_nat": False, "mode": "tunnel", "commit": False, "forge": "", "script": [], "life": 3600, "ike_life": 86400,
            "udp": False, "icv": 32, "ping": None,
        }
        self.s.update(settings)
        self.sign_cert, self.encrypt_cert = g.cert_der(self.s["sign_cert"]), g.cert_der(self.s["encrypt_cert"])
        self.sas = []  # phase 1
        self.pairs = {}  # of IPsec SAs, by our inbound SPI
        self.esp, self.esps = {}, {}  # the last pair, and all by our SPI: keys and sequence number
        self.script = list(self.s["script"])
        self.waiting = None

    def forge(self, what):
        return self.s["forge"] == what

    # ---- sending ----

    def send(self, sa, data, port=None):
        port = sa.port if port is None else port
        if self.s["udp"]:
            marker = b"" if port == 0 else bytes(4)
            self.sockets[port].sendto(marker + data, (self.s["peer_address"], (500, 4500)[port]))
            return
        sys.stdout.buffer.write(struct.pack(">IB", len(data) + 1, port) + data)
        sys.stdout.buffer.flush()

    def header(self, sa, first, exchange, flags, msgid, length):
        return sa.cookies() + struct.pack(">BBBBII", first, 0x10 | sa.minor, exchange, flags, msgid, 28 + length)

    def clear(self, sa, exchange, msgid, payloads):
        body = chain(payloads)
        return self.header(sa, payloads[0][0], exchange, 0, msgid, len(body)) + body

    def sealed(self, sa, exchange, msgid, iv, payloads):
        body = chain(payloads)
        if len(body) % 16:
            body += bytes(16 - len(body) % 16)
        data = g.sm4_cbc(True, sa.keys.key, iv, body)
        flags = 3 if self.s["commit"] and exchange == QUICK else 1
        return self.header(sa, payloads[0][0], exchange, flags, msgid, len(data)) + data, data[-16:]

    def answer(self, sa, data):
        sa.last_out = data
        self.send(sa, data)

    # ---- the envelope ----

    def identity(self):
        cert = self.encrypt_cert if self.s["id_from"] == "encryption" else self.sign_cert
        return b"\x09\0\0\0" + g.cert_subject(cert)

    def envelope(self, sa, certificates):
        """Messages 3 and 4 of main mode."""
        sa.k, sa.nonce, sa.id = os.urandom(16), os.urandom(16), self.identity()
        cert_body = b"\x05" + self.encrypt_cert
        covered = sa.k + sa.nonce + sa.id + (self.encrypt_cert if self.s["bare_cert"] else cert_body)
        if self.forge("signature"):
            covered += b"!"
        key = self.s["sign_key"]
        if self.forge("signing-key"):
            key = self.s["encrypt_key"]
        sig = g.sm2_sign(key, covered, self.s["signature"] == "raw", self.s["prehash"])
        wrapped = g.sm2_encrypt(sa.peer_encrypt, sa.k, self.s["envelope"])
        if self.forge("envelope"):
            wrapped = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
        if self.forge("envelope-garbage"):
            wrapped = os.urandom(len(wrapped))
        nonce, ident = g.body_pad(sa.nonce), g.body_pad(sa.id)
        if self.forge("padding"):
            nonce = nonce[:-2] + b"\x01\x0f"
        n = g.sm4_cbc(True, sa.k, bytes(16), nonce)
        i = g.sm4_cbc(True, sa.k, n[-16:], ident)
        payloads = [(SK, wrapped), (NONCE, n), (ID, i)]
        if self.forge("order"):
            payloads = [(NONCE, n), (SK, wrapped), (ID, i)]
        if certificates:
            if self.forge("encrypt-certificate"):
                cert_body = b"\x05" + self.sign_cert
            payloads += [(CERT, b"\x04" + self.sign_cert), (CERT, cert_body)]
        payloads.append((SIG, sig))
        if self.s["nat"] != "none" and sa.peer_natt:
            payloads += [(NATD, self.nat_hash(sa, self.s["peer_address"])), (NATD, self.nat_hash(sa, self.s["address"]))]
        if self.forge("version"):
            sa.minor ^= 1
        return payloads

    def nat_hash(self, sa, address):
        import hashlib

        data = sa.cookies() + ipaddress.ip_address(address).packed + struct.pack(">H", 500)
        if self.s["behind_nat"] and address == self.s["address"]:
            data += b"x"
        return hashlib.new(self.s["nat"], data).digest()

    def open_envelope(self, sa, payloads):
        if payloads[0][0] != SK:
            raise Refused("SK is not first")
        key, form = g.sm2_decrypt(self.s["encrypt_key"], payloads[0][1])
        if len(key) != 16:
            raise Refused("key of %d octets" % len(key))
        n, i = bodies(payloads, NONCE)[0], bodies(payloads, ID)[0]
        sa.peer_k = key
        sa.peer_nonce = g.body_unpad(g.sm4_cbc(False, key, bytes(16), n))
        sa.peer_id = g.body_unpad(g.sm4_cbc(False, key, n[-16:], i))
        certs = bodies(payloads, CERT)
        if certs:
            self.take_certs(sa, certs)
        covered = sa.peer_k + sa.peer_nonce + sa.peer_id
        sig, bare = bodies(payloads, SIG)[0], False
        try:
            raw, prehash = g.sm2_verify(sa.peer_sign, covered + b"\x05" + sa.peer_encrypt, sig)
        except ValueError:
            raw, prehash = g.sm2_verify(sa.peer_sign, covered + sa.peer_encrypt, sig)
            bare = True
        seen = {"envelope": form, "signature": "raw" if raw else "der", "prehash": prehash, "bare_cert": bare}
        log("envelope", id=sa.peer_id, nonce_octets=len(sa.peer_nonce), **seen)
        if self.s["strict"] and any(self.s[k] != v for k, v in seen.items()):
            raise Refused("variant")
        natd = bodies(payloads, NATD)
        if natd and self.s["nat"] != "none":
            sa.nat_seen = natd[0] != self.nat_hash(sa, self.s["address"]) or natd[1] != self.nat_hash(sa, self.s["peer_address"])
            log("nat", seen=sa.nat_seen, octets=len(natd[0]))

    def take_certs(self, sa, certs):
        sa.peer_sign = [c[1:] for c in certs if c[0] == 4][0]
        sa.peer_encrypt = [c[1:] for c in certs if c[0] == 5][0]

    def derive(self, sa):
        ni, nr, ki, kr = sa.nonce, sa.peer_nonce, sa.k, sa.peer_k
        if not sa.initiator:
            ni, nr, ki, kr = nr, ni, kr, ki
        sa.keys = g.Phase1Keys(ni, nr, sa.cookies(), ki, kr)
        sa.iv = sa.keys.iv

    def phase1_hash(self, sa, initiator):
        ident = sa.id if initiator == sa.initiator else sa.peer_id
        cookies = sa.cookies() if initiator else sa.cky_r + sa.cky_i
        h = g.prf(sa.keys.skeyid, cookies, sa.sa_i, ident)
        if self.forge("hash") and initiator == sa.initiator:
            h = bytes([h[0] ^ 1]) + h[1:]
        return h

    # ---- main mode ----

    def vendors(self):
        out = [(VID, DPD_VID), (VID, b"some other vendor")]
        if self.s["nat"] != "none":
            out.append((VID, NATT_VID))
        return out

    def ike_attributes(self):
        a = attr(11, 1) + attr(12, self.s["ike_life"]) + attr(1, self.s["ike_sm4"])
        if self.s["key_length"]:
            a += attr(14, 128)
        return a + attr(3, 10) + attr(20, 2) + attr(2, 20)

    def initiate(self):
        sa = Phase1(self, True, os.urandom(8), bytes(8))
        self.sas.append(sa)
        sa.sa_i = sa_body(1, b"", [(1, 1, self.ike_attributes())])
        self.answer(sa, self.clear(sa, MAIN, 0, [(SA, sa.sa_i)] + self.vendors()))
        return sa

    def main_mode(self, sa, data, flags, first):
        if sa.last_in == data:
            if sa.last_out:
                self.send(sa, sa.last_out)
            return
        if flags & 1:
            self.main_hash(sa, data, first)
            return
        payloads, rest = unchain(first, data[28:])
        if rest:
            raise Refused("octets after the last payload")
        if self.s["strict"] and data[17] != 0x10 | self.s["minor"]:
            raise Refused("version octet %#x" % data[17])
        if sa.initiator and sa.stage == 1:
            sa.cky_r = data[8:16]
            self.take_certs(sa, bodies(payloads, CERT))
            sa.peer_natt = NATT_VID in bodies(payloads, VID)
            sa.stage, sa.last_in = 3, data
            self.answer(sa, self.clear(sa, MAIN, 0, self.envelope(sa, True)))
        elif sa.initiator and sa.stage == 3:
            self.open_envelope(sa, payloads)
            self.derive(sa)
            sa.stage, sa.last_in = 5, data
            if sa.nat_seen or self.s["behind_nat"]:
                sa.port = 1
            self.answer(sa, self.seal_hash(sa))
        elif not sa.initiator and sa.stage == 1:
            sa.sa_i = bodies(payloads, SA)[0]
            sa.peer_natt = NATT_VID in bodies(payloads, VID)
            sa.minor = self.s["minor"] if self.s["strict"] else data[17] & 0xF
            for protocol, _, transforms in sa_parse(sa.sa_i):
                for number, ident, attributes, raw in transforms:
                    a = dict(attributes)
                    log("offer", attributes=attributes)
                    wanted = (self.s["ike_sm4"],) if self.s["strict"] else (129, 127)
                    if self.s["strict"] and (14 in a) != self.s["key_length"]:
                        continue
                    if protocol == 1 and ident == 1 and a.get(1) in wanted and a.get(2) == 20 and a.get(3) == 10 and a.get(20) == 2:
                        reply = sa_body(1, b"", [(number, ident, raw)])
                        sa.stage, sa.last_in = 3, data
                        certs = [(CERT, b"\x04" + self.sign_cert), (CERT, b"\x05" + self.encrypt_cert)]
                        if self.forge("no-certificates"):
                            certs = []
                        self.answer(sa, self.clear(sa, MAIN, 0, [(SA, reply)] + certs + self.vendors()))
                        return
            notify = struct.pack(">IBBH", 1, 1, 16, 14) + sa.cookies()
            self.send(sa, self.clear(sa, INFO, 77, [(N, notify)]))
            raise Refused("no proposal")
        elif not sa.initiator and sa.stage == 3:
            self.open_envelope(sa, payloads)
            sa.stage, sa.last_in = 5, data
            payloads = self.envelope(sa, False)
            self.derive(sa)
            self.answer(sa, self.clear(sa, MAIN, 0, payloads))

    def seal_hash(self, sa):
        data, sa.iv = self.sealed(sa, MAIN, 0, sa.iv, [(HASH, self.phase1_hash(sa, sa.initiator))])
        return data

    def main_hash(self, sa, data, first):
        plain = g.sm4_cbc(False, sa.keys.key, sa.iv, data[28:])
        payloads, _ = unchain(first, plain)
        if payloads[0][0] != HASH or not hmac.compare_digest(payloads[0][1], self.phase1_hash(sa, not sa.initiator)):
            raise Refused("hash of main mode")
        sa.iv, sa.last_in, sa.last_out = data[-16:], data, None
        if not sa.initiator:
            self.answer(sa, self.seal_hash(sa))
        sa.up = True
        log("phase1", skeyid_d=sa.keys.d, cookies=sa.cookies(), initiator=sa.initiator, version=data[17])
        if sa.initiator and (not self.pairs or self.waiting == "rekey-ike-and-child"):
            self.quick(sa)
        self.done("rekey-ike")

    # ---- quick mode ----

    def transforms(self):
        a = attr(1, 1) + attr(2, self.s["life"])
        a += attr(4, {"tunnel": 1, "transport": 2}[self.s["mode"]] + (2 if self.encap else 0))
        if self.s["esp"] != "gcm":
            a += attr(5, 20)
        if self.s["key_length"] and self.s["esp"] != "ah":
            a += attr(6, 128)
        return {"cbc": self.s["esp_sm4"], "gcm": 130, "ah": 20}[self.s["esp"]], a

    @property
    def encap(self):
        return any(sa.nat_seen or sa.port for sa in self.sas) or self.s["behind_nat"]

    def network(self, which):
        a = self.s[which]
        return struct.pack(">BBH", 4, 0, 0) + ipaddress.ip_address(a[0]).packed + ipaddress.ip_address(a[1]).packed

    def quick(self, sa):
        q = {"id": int.from_bytes(os.urandom(4), "big"), "initiator": True, "ni": os.urandom(20), "nr": b"", "spi": b"\x0c" + os.urandom(3)}
        q["iv"] = g.phase2_iv(sa.iv, q["id"])
        ident, attributes = self.transforms()
        q["sa"] = sa_body(2 if self.s["esp"] == "ah" else 3, q["spi"], [(1, ident, attributes)])
        rest = chain([(SA, q["sa"]), (NONCE, q["ni"]), (ID, self.network("local")), (ID, self.network("remote"))])
        whole, _ = unchain(SA, rest)
        h = g.quick_hash(self.s["quick_hash"], sa.keys.a, q["id"], q["ni"], b"", whole[0][2], [whole[2][2], whole[3][2]], rest)
        sa.quicks[q["id"]] = q
        q["out"], q["iv"] = self.sealed(sa, QUICK, q["id"], q["iv"], [(HASH, h)] + [(p[0], p[1]) for p in whole])
        self.send(sa, q["out"])

    def check_quick_hash(self, sa, q, payloads, rest):
        ids = [p[2] for p in payloads if p[0] == ID]
        whole_sa = [p[2] for p in payloads if p[0] == SA][0]
        for form in ("standard", "bodies", "rfc"):
            if hmac.compare_digest(payloads[0][1], g.quick_hash(form, sa.keys.a, q["id"], q["ni"], q["nr"], whole_sa, ids, rest)):
                if self.s["strict"] and form != self.s["quick_hash"]:
                    raise Refused("quick mode hashed as " + form)
                return form
        raise Refused("hash of quick mode")

    def quick_mode(self, sa, data, msgid, first):
        q = sa.quicks.get(msgid)
        if q and q.get("in") == data:
            if q.get("out"):
                self.send(sa, q["out"])
            return
        if q is None:
            q = {"id": msgid, "initiator": False, "nr": b"", "iv": g.phase2_iv(sa.iv, msgid)}
        if q.get("done"):
            return
        plain = g.sm4_cbc(False, sa.keys.key, q["iv"], data[28:])
        payloads, tail = unchain(first, plain)
        used = len(plain) - len(tail)
        rest = plain[len(payloads[0][2]) : used]
        if payloads[0][0] != HASH:
            raise Refused("HASH is not first")
        if q["initiator"]:
            q["nr"] = bodies(payloads, NONCE)[0]
            form = self.check_quick_hash(sa, q, payloads, rest)
            q["in"] = data
            _, spi, ts = sa_parse(bodies(payloads, SA)[0])[0]
            self.install(sa, q, spi, ts[0], form)
            q["out"], q["iv"] = self.sealed(sa, QUICK, msgid, data[-16:], [(HASH, g.quick_hash_3(sa.keys.a, msgid, q["ni"], q["nr"]))])
            q["done"] = True
            self.send(sa, q["out"])
            self.done("rekey-child", "rekey-ike-and-child")
        elif not q["nr"]:
            q["ni"] = bodies(payloads, NONCE)[0]
            form = self.check_quick_hash(sa, q, payloads, rest)
            protocol, spi, ts = sa_parse(bodies(payloads, SA)[0])[0]
            for t in ts:
                log("child-offer", protocol=protocol, transform=t[1], attributes=t[2])
            want, _ = self.transforms()
            ok = [t for t in ts if t[1] == want and (not self.s["strict"] or (6 in dict(t[2])) == self.s["key_length"])]
            if not ok:
                self.info(sa, (N, struct.pack(">IBBH", 1, protocol, 4, 14) + spi))
                raise Refused("no proposal for the child")
            t = ok[0]
            q["in"], q["nr"], q["spi"], q["peer_spi"], q["t"], q["form"] = data, os.urandom(24), b"\x0d" + os.urandom(3), spi, t, form
            sa.quicks[msgid] = q
            reply = [(SA, sa_body(protocol, q["spi"], [(t[0], t[1], t[3])])), (NONCE, q["nr"])] + [(ID, b) for b in bodies(payloads, ID)]
            rest = chain(reply)
            whole, _ = unchain(SA, rest)
            h = g.quick_hash(self.s["quick_hash"] if self.s["strict"] else form, sa.keys.a, msgid, q["ni"], q["nr"], whole[0][2],
                             [p[2] for p in whole if p[0] == ID], rest)
            q["out"], q["iv"] = self.sealed(sa, QUICK, msgid, data[-16:], [(HASH, h)] + reply)
            self.send(sa, q["out"])
        else:
            if not hmac.compare_digest(payloads[0][1], g.quick_hash_3(sa.keys.a, msgid, q["ni"], q["nr"])):
                raise Refused("HASH_3")
            q["in"], q["out"], q["done"] = data, None, True
            self.install(sa, q, q["peer_spi"], q["t"], q["form"])
            if self.s["commit"]:
                self.info(sa, (N, struct.pack(">IBBH", 1, 3, 4, CONNECTED) + q["spi"]))
            self.done("rekey-child")

    def install(self, sa, q, peer_spi, t, form):
        protocol = 2 if self.s["esp"] == "ah" else 3
        n = {"cbc": 48, "gcm": 20, "ah": 32}[self.s["esp"]]
        keys = {
            "in_spi": q["spi"], "out_spi": peer_spi,
            "in_key": g.keymat(sa.keys.d, protocol, q["spi"], q["ni"], q["nr"], n),
            "out_key": g.keymat(sa.keys.d, protocol, peer_spi, q["ni"], q["nr"], n),
        }
        self.pairs[q["spi"]] = peer_spi
        self.esp = dict(keys, seq=0)
        self.esps[q["spi"]] = self.esp
        log("child", form=form, transform=t[1], attributes=t[2], protocol=protocol, initiator=q["initiator"], **keys)

    # ---- informational ----

    def info(self, sa, payload):
        msgid = int.from_bytes(os.urandom(4), "big")
        rest = chain([payload])
        h = g.prf(sa.keys.a, struct.pack(">I", msgid), rest)
        data, _ = self.sealed(sa, INFO, msgid, g.phase2_iv(sa.iv, msgid), [(HASH, h), payload])
        self.send(sa, data)

    def informational(self, sa, data, msgid, flags, first):
        if not flags & 1:
            payloads, _ = unchain(first, data[28:])
            for body in bodies(payloads, N):
                log("notify-in-clear", kind=struct.unpack(">H", body[6:8])[0])
            return
        plain = g.sm4_cbc(False, sa.keys.key, g.phase2_iv(sa.iv, msgid), data[28:])
        payloads, tail = unchain(first, plain)
        rest = plain[len(payloads[0][2]) : len(plain) - len(tail)]
        if payloads[0][0] != HASH or not hmac.compare_digest(payloads[0][1], g.prf(sa.keys.a, struct.pack(">I", msgid), rest)):
            raise Refused("hash of informational")
        for kind, body, _ in payloads[1:]:
            if kind == N:
                n = struct.unpack(">H", body[6:8])[0]
                log("notify", kind=n)
                if n == R_U_THERE:
                    size = body[5]
                    self.info(sa, (N, struct.pack(">IBBH", 1, 1, 16, R_U_THERE_ACK) + sa.cookies() + body[8 + size :]))
                if n == R_U_THERE_ACK:
                    self.done("dpd")
            elif kind == D:
                protocol, size = body[4], body[5]
                spis = [body[8 + i : 8 + i + size] for i in range(0, len(body) - 8, size)]
                log("delete", protocol=protocol, spis=[s.hex() for s in spis])
                if protocol == 1 and sa in self.sas:
                    self.sas.remove(sa)
                for ours, theirs in list(self.pairs.items()):
                    if theirs in spis:
                        del self.pairs[ours]

    # ---- the script ----

    def done(self, *what):
        if self.waiting in what:
            log("done", what=self.waiting)
            self.waiting = None

    def act(self):
        live = [sa for sa in self.sas if sa.up]
        if self.waiting or not self.script or not live or not self.pairs:
            return
        sa, what = live[-1], self.script.pop(0)
        if what == "dpd":
            self.waiting = what
            self.info(sa, (N, struct.pack(">IBBH", 1, 1, 16, R_U_THERE) + sa.cookies() + struct.pack(">I", 7)))
        elif what == "rekey-child":
            self.waiting = what
            self.quick(sa)
        elif what in ("rekey-ike", "rekey-ike-and-child"):
            self.waiting = what
            self.initiate()
        elif what == "delete-old-ike":
            for old in live[:-1]:
                self.info(old, (D, struct.pack(">IBBH", 1, 1, 16, 1) + old.cookies()))
                self.sas.remove(old)
            log("done", what=what)
        elif what == "delete-old-child":
            ours = next(iter(self.pairs))
            self.info(sa, (D, struct.pack(">IBBH", 1, 3, 4, 1) + ours))
            del self.pairs[ours]
            log("done", what=what)
        elif what == "delete-child":
            ours = list(self.pairs)[-1]
            self.info(sa, (D, struct.pack(">IBBH", 1, 2 if self.s["esp"] == "ah" else 3, 4, 1) + ours))
            del self.pairs[ours]
            log("done", what=what)
        elif what == "delete-ike":
            self.info(sa, (D, struct.pack(">IBBH", 1, 1, 16, 1) + sa.cookies()))
            self.sas.remove(sa)
            log("done", what=what)
        elif what == "ping":
            self.waiting = what
            self.ping()
        elif what == "initial-contact":
            self.info(sa, (N, struct.pack(">IBBH", 1, 1, 16, INITIAL_CONTACT) + sa.cookies()))
            log("done", what=what)

    # ---- ESP, SM4-CBC with HMAC-SM3 ----

    def ping(self):
        src, dst = [ipaddress.ip_address(a).packed for a in self.s["ping"]]
        icmp = b"\x08\0\0\0" + b"GM" + b"\0\1" + b"inner octets that nobody may see"
        icmp = icmp[:2] + struct.pack(">H", checksum(icmp)) + icmp[4:]
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(icmp), 1, 0, 64, 1, 0) + src + dst
        inner = ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:] + icmp
        e = self.esp
        e["seq"] += 1
        n = -(len(inner) + 2) % 16
        plain = inner + bytes(range(1, n + 1)) + bytes([n, 4])
        iv = os.urandom(16)
        body = e["out_spi"] + struct.pack(">I", e["seq"]) + iv + g.sm4_cbc(True, e["out_key"][:16], iv, plain)
        packet = body + g.prf(e["out_key"][16:], body)[: self.s["icv"]]
        log("esp-sent", packet=packet)
        self.raw.sendto(packet, (self.s["peer_address"], 0))

    def esp_received(self, packet):
        packet = packet[(packet[0] & 15) * 4 :]
        e, icv = self.esps.get(packet[:4]), self.s["icv"]
        if not e:
            return
        body, tag = packet[:-icv], packet[-icv:]
        if not hmac.compare_digest(tag, g.prf(e["in_key"][16:], body)[:icv]):
            log("esp-forged", packet=packet)
            return
        plain = g.sm4_cbc(False, e["in_key"][:16], body[8:24], body[24:])
        inner = plain[: -2 - plain[-2]]
        log("esp", packet=packet, inner=inner, next=plain[-1], seq=struct.unpack(">I", body[4:8])[0])
        if inner[9] == 1 and inner[20] == 0:
            self.done("ping")

    # ---- receiving ----

    def receive(self, data, port):
        if len(data) < 28:
            return
        first, version, exchange, flags, msgid, length = struct.unpack(">BBBBII", data[16:28])
        if length != len(data) or version >> 4 != 1:
            raise Refused("header")
        sa = None
        for x in self.sas:
            if x.cky_i == data[:8] and (x.cky_r == data[8:16] or x.cky_r == bytes(8) or data[8:16] == bytes(8)):
                sa = x
        if sa is None:
            if exchange != MAIN or data[8:16] != bytes(8):
                return
            sa = Phase1(self, False, data[:8], os.urandom(8))
            self.sas.append(sa)
        if not sa.initiator:
            sa.port = port
        if exchange == MAIN:
            self.main_mode(sa, data, flags, first)
        elif exchange == QUICK and sa.up:
            self.quick_mode(sa, data, msgid, first)
        elif exchange == INFO:
            self.informational(sa, data, msgid, flags, first)

    def take(self, data, port):
        try:
            self.receive(data, port)
        except (Refused, ValueError, IndexError, KeyError, AttributeError, struct.error) as e:
            log("refused", why="%s: %s" % (type(e).__name__, e))

    def listen(self):
        self.sockets = []
        for port in (500, 4500):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((self.s["address"], port))
            self.sockets.append(sock)
        self.raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)

    def run(self):
        fd, buf, others = sys.stdin.buffer.raw.fileno(), b"", []
        if self.s["udp"]:
            self.listen()
            others = self.sockets + [self.raw]
        if self.s["role"] == "initiator":
            self.initiate()
        while True:
            self.act()
            ready = select.select([fd] + others, [], [], 0.05)[0]
            for sock in others:
                if sock in ready:
                    data = sock.recvfrom(65536)[0]
                    if sock is self.raw:
                        self.esp_received(data)
                    elif sock is self.sockets[0]:
                        self.take(data, 0)
                    elif data[:4] == bytes(4):
                        self.take(data[4:], 1)
            if fd not in ready:
                continue
            got = os.read(fd, 65536)
            if not got:
                return
            buf += got
            while len(buf) >= 4 and len(buf) >= 4 + struct.unpack(">I", buf[:4])[0]:
                n = struct.unpack(">I", buf[:4])[0]
                frame, buf = buf[4 : 4 + n], buf[4 + n :]
                self.take(frame[1:], frame[0])


def checksum(b):
    """The checksum of IP and ICMP."""
    b += bytes(len(b) % 2)
    n = sum(struct.unpack(">%dH" % (len(b) // 2), b))
    while n >> 16:
        n = (n & 0xFFFF) + (n >> 16)
    return n ^ 0xFFFF


def main():
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1)
    peer = Peer(json.loads(line))
    log("ready")
    peer.run()


main()
