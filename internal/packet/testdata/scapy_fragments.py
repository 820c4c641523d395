"""Judges fragments with scapy.

Reads from standard input a JSON list of {"packet": hex, "mtu": n, "fragments": [hex]} and answers for each:
the fragments that scapy makes of the packet, the packet that scapy makes of our fragments, and whether the TCP or
UDP checksum of "packet" is right by scapy's reckoning.
"""
import json
import sys

from scapy.all import IP, TCP, UDP, IPv6, IPv6ExtHdrFragment, defragment, defragment6, fragment, fragment6, raw


def read(text):
    data = bytes.fromhex(text)
    return IP(data) if data[0] >> 4 == 4 else IPv6(data)


def checksum(p):
    for layer in (TCP, UDP):
        if layer in p:
            have = p[layer].chksum
            again = p.copy()
            del again[layer].chksum
            return read(raw(again).hex())[layer].chksum == have
    return True


answers = []
for case in json.load(sys.stdin):
    p = read(case["packet"])
    theirs, whole = [], ""
    if case.get("mtu"):
        if p.version == 4:
            theirs = fragment(p, fragsize=case["mtu"] - p.ihl * 4)
        else:
            theirs = fragment6(IPv6(src=p.src, dst=p.dst, hlim=p.hlim, tc=p.tc, fl=p.fl) / IPv6ExtHdrFragment(id=7) / p.payload, case["mtu"])
    if case.get("fragments"):
        ours = [read(x) for x in case["fragments"]]
        if p.version == 4:
            whole = raw(defragment(ours)[0]).hex()
        else:
            whole = raw(defragment6(ours)).hex()
    answers.append({"fragments": [raw(f).hex() for f in theirs], "whole": whole, "checksum": bool(checksum(p))})
json.dump(answers, sys.stdout)
