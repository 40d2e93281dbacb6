"""HTTP/1.1 by Python's http.client, over plain TCP or TLS: clients that keep their connection, clients that make a
new one for each request, and clients that rest between two requests as browsers do. None asks again."""

import http.client
import random
import socket
import threading

import peer


class Client(threading.Thread):
    def __init__(self, options, report, number, keep, rests):
        super().__init__(daemon=True)
        self.options, self.report, self.keep, self.rests = options, report, keep, rests
        self.number, self.random = number, random.Random(number)
        self.context = peer.tls(options, "http/1.1")

    def connect(self):
        options = self.options
        if not self.context:
            return http.client.HTTPConnection(options.host, options.port, timeout=peer.PATIENCE)
        connection = http.client.HTTPSConnection(
            options.host, options.port, timeout=peer.PATIENCE, context=self.context
        )
        # The address is one thing, the name in the certificate another.
        connection._create_connection = lambda _, *rest: socket.create_connection(
            (options.host, options.port), *rest
        )
        connection.host = options.name
        return connection

    def run(self):
        while not self.report.over.is_set():
            asked = 0
            try:
                connection = self.connect()
                connection.connect()
                while not self.report.over.is_set():
                    closes = self.ask(connection, asked)
                    asked += 1
                    if closes:
                        self.report.count("told")
                        # It said that it would: so it does, in good order.
                        break
                    if not self.keep:
                        break
                    if self.rests:
                        # The time that a person takes: this is the load, and nobody waits for it.
                        self.report.over.wait(self.random.uniform(0, self.rests))
                connection.close()
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.report.fail(f"client {self.number}, request {asked} of its connection: {error!r}")

    def ask(self, connection, asked):
        """One request; whether its answer said that the connection closes."""
        if (asked + self.number) % 4 == 3:
            body = peer.noise(self.random.randrange(20_000), asked)
            connection.request("POST", "/echo", body)
            expected = body
        else:
            n = self.random.choice([0, 1, 1000, 30_000])
            connection.request("GET", f"/bytes?n={n}")
            expected = b"x" * n
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, answer.status
        assert body == expected, f"a body of {len(body)} bytes instead of {len(expected)}"
        self.report.count()
        return answer.will_close


def main():
    parser = peer.arguments(__doc__)
    parser.add_argument("--keep", type=int, default=4)
    parser.add_argument("--churn", type=int, default=4)
    parser.add_argument("--idle", type=int, default=0)
    parser.add_argument("--rests", type=float, default=0.6, help="how long an idle client rests at most, seconds")
    options = parser.parse_args()
    report = peer.Report()
    report.stop_with_stdin()
    kinds = [(True, 0)] * options.keep + [(False, 0)] * options.churn + [(True, options.rests)] * options.idle
    clients = [Client(options, report, i, *kind) for i, kind in enumerate(kinds)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(3 * peer.PATIENCE)
        if client.is_alive():
            report.fail(f"client {client.number} does not end")
    report.end()


if __name__ == "__main__":
    main()
