"""Seals and verifies AH packets with scapy.

Reads a JSON list of cases from standard input and writes the list of results.
A case has: do ("open" or "seal"), auth, key, spi, seq, esn (null, or the high
half of the sequence number), tunnel (bool), packet (hex: the IP packet that AH
is in, or that it is to be put in) and outer (4 or 6, of the tunnel's header).
A result has the hex of the packet without AH, or with it.
"""
import json
import sys

from scapy.compat import raw
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import AH, SecurityAssociation


def parse(octets):
    return IP(octets) if octets[0] >> 4 == 4 else IPv6(octets)


def run(case):
    v4 = case["outer"] == 4
    header = IP(src="192.0.2.1", dst="192.0.2.2", id=7) if v4 else IPv6(src="2001:db8::1", dst="2001:db8::2")
    esn = case["esn"]
    sa = SecurityAssociation(
        AH, spi=case["spi"], auth_algo=case["auth"], auth_key=bytes.fromhex(case["key"]),
        tunnel_header=header if case["tunnel"] else None, esn_en=esn is not None, esn=esn or 0)
    octets = bytes.fromhex(case["packet"])
    packet = parse(octets)
    if case["do"] == "seal":
        return raw(sa.encrypt(packet, seq_num=case["seq"]))
    if octets[0] >> 4 == 4:
        checksum = packet.chksum
        del packet.chksum
        if parse(raw(packet)).chksum != checksum:
            raise ValueError("wrong checksum of the IP header")
        packet = parse(octets)
    if packet[AH].seq != case["seq"]:
        raise ValueError("sequence number %d" % packet[AH].seq)
    return raw(sa.decrypt(packet))


json.dump([run(case).hex() for case in json.load(sys.stdin)], sys.stdout)
