# A backend over TLS: `GET /readyz` is answered 200; any other line is sent back with the backend's name, until the end.
import socketserver, ssl, sys

name, port, cert, key = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)


class Talk(socketserver.BaseRequestHandler):
    def handle(self):
        try:
            stream = context.wrap_socket(self.request, server_side=True).makefile("rwb", buffering=0)
            while line := stream.readline():
                if line.startswith(b"GET /readyz"):
                    stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                    return
                stream.write(name.encode() + b" " + line)
        except OSError:
            pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


Server((sys.argv[5], port), Talk).serve_forever()
