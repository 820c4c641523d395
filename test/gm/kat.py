#!/usr/bin/env python3
"""Prints known answers of the key derivation of GM/T 0022, computed by OpenSSL.

    test/gm/kat.py >internal/ike/keys/testdata/gm.json
"""

import json
import struct

import gmcrypto as g


def pattern(first, n):
    return bytes((first + 7 * i) & 0xFF for i in range(n))


def main():
    out = []
    for n in (16, 32):
        ni, nr = pattern(n, n), pattern(n + 100, n)
        ski, skr = pattern(3, 16), pattern(9, 16)
        cky_i, cky_r = pattern(0x11, 8), pattern(0x88, 8)
        sa, idi, idr = pattern(1, 60), b"\x09\0\0\0" + pattern(5, 40), b"\x09\0\0\0" + pattern(6, 44)
        k = g.Phase1Keys(ni, nr, cky_i + cky_r, ski, skr)
        msgid, qi, qr = 0x01020304 + n, pattern(50, 16), pattern(60, 16)
        qsa = b"\x0a\0" + struct.pack(">H", 4 + 52) + pattern(7, 52)
        ids = [b"\x05\0\0\x10" + pattern(70, 12), b"\0\0\0\x10" + pattern(80, 12)]
        rest = qsa + b"\x05\0\0\x14" + qi + ids[0] + ids[1]
        rest2 = qsa + b"\x05\0\0\x14" + qr + ids[0] + ids[1]
        last = g.sm4_cbc(True, k.key, k.iv, g.body_pad(pattern(1, 40)))
        v = {
            "ni": ni, "nr": nr, "ski": ski, "skr": skr, "cky_i": cky_i, "cky_r": cky_r, "sa": sa, "idi": idi, "idr": idr,
            "skeyid": k.skeyid, "skeyid_d": k.d, "skeyid_a": k.a, "skeyid_e": k.e, "key": k.key, "iv": k.iv,
            "hash_i": g.prf(k.skeyid, cky_i + cky_r, sa, idi),
            "hash_r": g.prf(k.skeyid, cky_r + cky_i, sa, idr),
            "plain": pattern(1, 40), "sealed": last, "iv2": g.phase2_iv(last[-16:], msgid),
            "msgid": struct.pack(">I", msgid), "qi": qi, "qr": qr, "qsa": qsa, "id_ci": ids[0], "id_cr": ids[1],
            "rest": rest, "rest2": rest2,
            "hash_3": g.quick_hash_3(k.a, msgid, qi, qr),
            "info": g.prf(k.a, struct.pack(">I", msgid), rest),
            "spi": b"\xc0\xff\xee\x01",
            "keymat": g.keymat(k.d, 3, b"\xc0\xff\xee\x01", qi, qr, 48),
            "keymat_gcm": g.keymat(k.d, 3, b"\xc0\xff\xee\x01", qi, qr, 20),
            "keymat_ah": g.keymat(k.d, 2, b"\xc0\xff\xee\x01", qi, qr, 32),
        }
        for form in ("standard", "bodies", "rfc"):
            v["hash_1_" + form] = g.quick_hash(form, k.a, msgid, qi, b"", qsa, ids, rest)
            v["hash_2_" + form] = g.quick_hash(form, k.a, msgid, qi, qr, qsa, ids, rest2)
        out.append({name: b.hex() for name, b in v.items()})
    print(json.dumps(out, indent=1))


main()
