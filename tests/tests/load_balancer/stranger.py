# Adverts of VRRP version 3 (RFC 5798) with an id, five a second, to everybody: what a router that is none of ours sends.
import socket, struct, sys, time

source, number = sys.argv[1], int(sys.argv[2])
out = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(source))
while True:
    out.sendto(struct.pack("!BBBBHH4s", 0x31, number, 100, 1, 50, 0, socket.inet_aton("10.0.0.99")), ("224.0.0.18", 0))
    time.sleep(0.2)
