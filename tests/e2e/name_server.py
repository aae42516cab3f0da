"""A name server on a thread: answers by UDP from records that a test changes, or says nothing."""

from __future__ import annotations

import socket
import threading

from twisted.names import dns


class NameServer:
    """Authority for all names. `records` by (name, type); `is_silent`: no answers. `address` is as a configuration file has it."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, int], list[dns.IEncodableRecord]] = {}
        self.is_silent = False
        self.asked = 0
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._sock.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            data, peer = self._sock.recvfrom(4096)
            if not data:
                return
            self.asked += 1
            if self.is_silent:
                continue
            question = dns.Message()
            question.fromStr(data)
            query = question.queries[0]
            payloads = self.records.get((query.name.name.decode().lower(), query.type), [])
            answer = dns.Message(question.id, answer=1, auth=1, rCode=dns.OK if payloads else dns.ENAME)
            answer.queries = [query]
            answer.answers = [dns.RRHeader(query.name.name, query.type, dns.IN, 0, payload, True) for payload in payloads]
            self._sock.sendto(answer.toStr(), peer)

    def serve_at(self, service: str, *ports: int) -> None:
        """These ports of 127.0.0.1 are the SRV records of `service`; TTL 0."""
        self.records = {
            (service, dns.SRV): [dns.Record_SRV(0, 1, port, b"local.example") for port in ports],
            ("local.example", dns.A): [dns.Record_A("127.0.0.1")],
        }

    def stop(self) -> None:
        """End the thread."""
        host, _, port = self.address.rpartition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (host, int(port)))
        self._thread.join(10)
        self._sock.close()
