"""Opens and seals ESP packets with scapy.

Reads a JSON list of cases from standard input and writes the list of results.
A case has: do ("open" or "seal"), crypt, auth, crypt_key, auth_key, spi, seq,
esn (null, or the high half of the sequence number), packet (hex: the outer IP
packet to open, or the inner one to seal), outer (4 or 6), udp and transport
(bool; otherwise tunnel mode).
A result has the hex of the inner packet, or of the sealed outer one.
"""
import json
import sys

from scapy.compat import raw
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation


def run(case):
    v4 = case["outer"] == 4
    header = IP(src="192.0.2.1", dst="192.0.2.2") if v4 else IPv6(src="2001:db8::1", dst="2001:db8::2")
    esn = case["esn"]
    sa = SecurityAssociation(
        ESP, spi=case["spi"], crypt_algo=case["crypt"], crypt_key=bytes.fromhex(case["crypt_key"]),
        auth_algo=case["auth"], auth_key=bytes.fromhex(case["auth_key"]), tunnel_header=None if case["transport"] else header,
        nat_t_header=UDP(sport=4500, dport=4500) if case["udp"] else None,
        esn_en=esn is not None, esn=esn or 0)
    octets = bytes.fromhex(case["packet"])
    if case["do"] == "seal":
        inner = IP(octets) if octets[0] >> 4 == 4 else IPv6(octets)
        return raw(sa.encrypt(inner, seq_num=case["seq"]))
    packet = (IP if v4 else IPv6)(octets)
    if v4:
        checksum = packet.chksum
        del packet.chksum
        packet = IP(raw(packet))
        if packet.chksum != checksum:
            raise ValueError("wrong checksum of the outer header")
    if (UDP in packet) != case["udp"]:
        raise ValueError("encapsulation is not as said")
    if packet[ESP].seq != case["seq"]:
        raise ValueError("sequence number %d" % packet[ESP].seq)
    return raw(sa.decrypt(packet))


json.dump([run(case).hex() for case in json.load(sys.stdin)], sys.stdout)
