"""The arithmetic of GM/T 0022, on OpenSSL's libcrypto and nothing of caponier's.

SM3 and HMAC come from libcrypto through hashlib and hmac, SM4-CBC through ctypes,
and SM2 from the openssl command line.
"""

import ctypes
import ctypes.util
import hashlib
import hmac
import os
import struct
import subprocess
import tempfile

_lib = ctypes.CDLL(ctypes.util.find_library("crypto") or "libcrypto.so.3")
for _name in ("EVP_CIPHER_CTX_new", "EVP_sm4_cbc"):
    getattr(_lib, _name).restype = ctypes.c_void_p
_lib.EVP_CipherInit_ex.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
_lib.EVP_CIPHER_CTX_set_padding.argtypes = [ctypes.c_void_p, ctypes.c_int]
_lib.EVP_CipherUpdate.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int), ctypes.c_char_p, ctypes.c_int]
_lib.EVP_CIPHER_CTX_free.argtypes = [ctypes.c_void_p]

BLOCK = 16
USER_ID = "1234567812345678"


def sm4_cbc(encrypt, key, iv, data):
    assert len(key) == 16 and len(iv) == BLOCK and len(data) % BLOCK == 0
    ctx = _lib.EVP_CIPHER_CTX_new()
    out = ctypes.create_string_buffer(len(data) + BLOCK)
    n = ctypes.c_int(0)
    assert _lib.EVP_CipherInit_ex(ctx, _lib.EVP_sm4_cbc(), None, key, iv, 1 if encrypt else 0) == 1
    _lib.EVP_CIPHER_CTX_set_padding(ctx, 0)
    assert _lib.EVP_CipherUpdate(ctx, out, ctypes.byref(n), data, len(data)) == 1
    _lib.EVP_CIPHER_CTX_free(ctx)
    return out.raw[: n.value]


def sm3(*parts):
    return hashlib.new("sm3", b"".join(parts)).digest()


def prf(key, *parts):
    return hmac.new(key, b"".join(parts), "sm3").digest()


def body_pad(data):
    """Padding of an encrypted payload body: zeros, and the length less one."""
    n = BLOCK - len(data) % BLOCK
    return data + bytes(n - 1) + bytes([n - 1])


def body_unpad(data):
    n = data[-1] + 1
    if n > len(data) or any(data[-n:-1]):
        raise ValueError("bad padding")
    return data[:-n]


class Phase1Keys:
    def __init__(self, ni, nr, cookies, ski, skr):
        self.skeyid = prf(sm3(ni, nr), cookies)
        self.d = prf(self.skeyid, cookies, b"\0")
        self.a = prf(self.skeyid, self.d, cookies, b"\1")
        self.e = prf(self.skeyid, self.a, cookies, b"\2")
        self.key = self.e[:16]
        self.iv = sm3(ski, skr)[:BLOCK]


def phase2_iv(last, msgid):
    return sm3(last, struct.pack(">I", msgid))[:BLOCK]


def keymat(d, protocol, spi, ni, nr, n):
    out = block = b""
    while len(out) < n:
        block = prf(d, block, bytes([protocol]), spi, ni, nr)
        out += block
    return out[:n]


def quick_hash(form, a, msgid, ni, nr, sa, ids, rest):
    """HASH_1 where nr is empty, else HASH_2. sa and ids have generic headers."""
    m = struct.pack(">I", msgid)
    if form == "rfc":
        return prf(a, m, ni if nr else b"", rest)
    if form == "bodies":
        sa, ids = sa[4:], [i[4:] for i in ids]
    return prf(a, m, ni, sa, nr, *ids)


def quick_hash_3(a, msgid, ni, nr):
    return prf(a, b"\0", struct.pack(">I", msgid), ni, nr)


# ---- SM2, by the openssl command line ----


def _openssl(*args, data=None):
    return subprocess.run(("openssl",) + args, input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True).stdout


def _file(data):
    f = tempfile.NamedTemporaryFile(prefix="gm-", delete=False)
    f.write(data)
    f.close()
    return f.name


def der_int(b):
    b = b.lstrip(b"\0") or b"\0"
    if b[0] & 0x80:
        b = b"\0" + b
    return der(0x02, b)


def der(tag, body):
    n = len(body)
    if n < 0x80:
        return bytes([tag, n]) + body
    length = n.to_bytes((n.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def der_read(b):
    """Returns tag, body, and what follows."""
    tag, n, at = b[0], b[1], 2
    if n & 0x80:
        at = 2 + (n & 0x7F)
        n = int.from_bytes(b[2:at], "big")
    if at + n > len(b):
        raise ValueError("DER is cut off")
    return tag, b[at : at + n], b[at + n :]


def der_children(b):
    out = []
    while b:
        tag, body, rest = der_read(b)
        out.append((tag, body, b[: len(b) - len(rest)]))
        b = rest
    return out


def sm2_sign(key_file, octets, raw=False, prehash="none"):
    if prehash == "bare":
        args, data = [], sm3(octets)
    else:
        args, data = ["-rawin", "-digest", "sm3", "-pkeyopt", "distid:" + USER_ID], octets
        if prehash == "message":
            data = sm3(octets)
    name = _file(data)
    try:
        sig = _openssl("pkeyutl", "-sign", "-inkey", key_file, "-in", name, *args)
    finally:
        os.unlink(name)
    if raw:
        r, s = [c[1] for c in der_children(der_read(sig)[1])]
        return r.lstrip(b"\0").rjust(32, b"\0") + s.lstrip(b"\0").rjust(32, b"\0")
    return sig


def sm2_verify(cert_der, octets, sig):
    """Returns how the signature is made: raw or not, and the pre-hash. Raises where none fits."""
    raw = len(sig) == 64
    if raw:
        sig = der(0x30, der_int(sig[:32]) + der_int(sig[32:]))
    pub = _openssl("x509", "-inform", "DER", "-pubkey", "-noout", data=cert_der)
    names = [_file(pub), _file(sig)]
    try:
        for prehash in ("none", "bare", "message"):
            if prehash == "bare":
                args, data = [], sm3(octets)
            else:
                args, data = ["-rawin", "-digest", "sm3", "-pkeyopt", "distid:" + USER_ID], octets
                if prehash == "message":
                    data = sm3(octets)
            m = _file(data)
            try:
                _openssl("pkeyutl", "-verify", "-pubin", "-inkey", names[0], "-sigfile", names[1], "-in", m, *args)
                return raw, prehash
            except subprocess.CalledProcessError:
                pass
            finally:
                os.unlink(m)
    finally:
        for n in names:
            os.unlink(n)
    raise ValueError("signature does not verify")


def sm2_encrypt(cert_der, data, form):
    pub = _openssl("x509", "-inform", "DER", "-pubkey", "-noout", data=cert_der)
    names = [_file(pub), _file(data)]
    try:
        out = _openssl("pkeyutl", "-encrypt", "-pubin", "-inkey", names[0], "-in", names[1])
    finally:
        for n in names:
            os.unlink(n)
    if form == "der":
        return out
    x, y, c3, c2 = [c[1] for c in der_children(der_read(out)[1])]
    c1 = b"\4" + x.lstrip(b"\0").rjust(32, b"\0") + y.lstrip(b"\0").rjust(32, b"\0")
    return c1 + (c3 + c2 if form == "c1c3c2" else c2 + c3)


def sm2_decrypt(key_file, data):
    """Returns the plaintext and the form of the ciphertext."""
    forms = [("der", data)]
    if data[0] == 4:
        x, y, rest = data[1:33], data[33:65], data[65:]
        forms = []
        for form, c3, c2 in (("c1c3c2", rest[:32], rest[32:]), ("c1c2c3", rest[-32:], rest[:-32])):
            forms.append((form, der(0x30, der_int(x) + der_int(y) + der(4, c3) + der(4, c2))))
    for form, blob in forms:
        name = _file(blob)
        try:
            return _openssl("pkeyutl", "-decrypt", "-inkey", key_file, "-in", name), form
        except subprocess.CalledProcessError:
            pass
        finally:
            os.unlink(name)
    raise ValueError("SK does not decrypt")


def cert_der(pem_file):
    return _openssl("x509", "-in", pem_file, "-outform", "DER")


def cert_subject(cert):
    """The subject of a certificate, DER."""
    fields = der_children(der_children(der_read(cert)[1])[0][1])
    if fields[0][0] == 0xA0:  # version
        fields = fields[1:]
    return fields[4][2]
