"""The far end of manually keyed tunnels, made of scapy: it opens what comes for
its inbound SA, answers echo requests inside, and seals the answers. It prints a
line for each packet, with its sequence number, and REPLAY for one that came
before: what a receiver with an anti-replay window would drop.

usage: farend.py OUR-ADDRESS PEER-ADDRESS PROTOCOL MODE SPI-IN SPI-OUT ALGORITHMS KEYS

KEYS is a file with four lines in hexadecimal digits: encryption and integrity
key of the inbound SA, then of the outbound one; a line of "-" is no key.
"""

import socket
import sys

from scapy.all import AH, ESP, ICMP, IP, SecurityAssociation

ETH_P_IP = 0x0800
NUMBERS = {"esp": 50, "ah": 51}
CIPHERS = {"aes-cbc": "AES-CBC", "aes-gcm": "AES-GCM", "3des": "3DES", "null": "NULL"}
MACS = {"sha256": "SHA2-256-128", "sha1": "HMAC-SHA1-96", "none": "NULL"}


def associations(us, peer, protocol, mode, spi_in, spi_out, algorithms, keys):
    cipher, mac = algorithms.split("+")
    out = []
    for spi, src, dst, (encr, integ) in ((spi_in, peer, us, keys[:2]), (spi_out, us, peer, keys[2:])):
        args = {}
        if protocol == "esp":
            args.update(crypt_algo=CIPHERS[cipher], crypt_key=encr)
        if mac != "none":
            args.update(auth_algo=MACS[mac], auth_key=integ)
        if mode == "tunnel":
            args.update(tunnel_header=IP(src=src, dst=dst))
        out.append(SecurityAssociation({"esp": ESP, "ah": AH}[protocol], spi=spi, **args))
    return out


def main():
    us, peer, protocol, mode, spi_in, spi_out, algorithms, path = sys.argv[1:]
    with open(path, encoding="ascii") as f:
        keys = [bytes.fromhex(line) if line != "-" else None for line in f.read().split()]
    inbound, outbound = associations(us, peer, protocol, mode, int(spi_in, 16), int(spi_out, 16), algorithms, keys)

    receive = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
    send = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    highest = 0
    print("ready", flush=True)
    while True:
        data, where = receive.recvfrom(65536)
        if where[2] == socket.PACKET_OUTGOING:
            continue
        packet = IP(data)
        if packet.proto != NUMBERS[protocol] or packet.dst != us:
            continue
        layer = packet[AH] if protocol == "ah" else packet[ESP]
        try:
            inner = inbound.decrypt(packet)
        except Exception as e:  # whatever scapy makes of it, the test is to know
            print("REFUSED", type(e).__name__, e, flush=True)
            continue
        if IP not in inner:  # scapy does not look into tunnels of AH
            inner = IP(bytes(inner))
        print("REPLAY" if layer.seq <= highest else "packet", layer.seq, inner.summary(), flush=True)
        highest = max(highest, layer.seq)
        if ICMP not in inner or inner[ICMP].type != 8:
            continue
        echo = inner[ICMP]
        answer = IP(src=inner.dst, dst=inner.src) / ICMP(type=0, id=echo.id, seq=echo.seq) / echo.payload
        send.sendto(bytes(outbound.encrypt(IP(bytes(answer)))), (peer, 0))


main()
